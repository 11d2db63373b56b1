"""The graphs in the package, compared with new translations of the shipped weights."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coca.model.shipped import shipped
from coca.predict.manifest import GRAPHS, MANIFEST_FILE, read_manifest
from coca.predict.onnx_predictor import open_exported
from coca.release.onnx.linked_graphs import link_weights
from tiny_data import image_bytes

pytest.importorskip("onnxscript", reason="needs the extra onnx; run `make test-export`")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.timeout(1800)


def linked(model: Any) -> dict[str, dict[str, str]]:
    """File, offset and length of each tensor that is in another file."""
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.external_data
    }


@pytest.mark.parametrize("name", shipped())
def test_the_graphs_of_a_shipped_model_equal_new_translations(name: str, tmp_path: Path) -> None:
    home, folder = shipped()[name], tmp_path / name
    shutil.copytree(home, folder, ignore=shutil.ignore_patterns("*.onnx", MANIFEST_FILE))
    # In another process, where no shapes are checked.
    command = [sys.executable, "-m", "coca.release.onnx.linked_graphs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    for graph in GRAPHS:
        file = f"{graph}.onnx"
        ours, new = (onnx.load(it / file, load_external_data=False) for it in (home, folder))
        assert linked(ours) == linked(new) != {}
        assert (home / file).stat().st_size < 2_000_000
    old, manifest = read_manifest(home), read_manifest(folder)
    assert replace(old, files={}) == replace(manifest, files={})
    photo, (theirs, own) = image_bytes(0), (open_exported(it) for it in (home, folder))
    np.testing.assert_allclose(theirs.embed_images([photo]), own.embed_images([photo]), atol=1e-6)
    assert theirs.caption(photo)[0].text == own.caption(photo)[0].text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_linked_weights_have_the_values_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    weight = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    stored = {"other": torch.zeros(5, dtype=dtype), "w": weight, "changed": weight.clone()}
    save_file(stored, tmp_path / "model.safetensors")
    value, array = onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "model.w"], ["product"]),
            onnx.helper.make_node("Add", ["product", "own"], ["y"]),
        ],
        "linear",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 3])],
        [value("y", onnx.TensorProto.FLOAT, ["batch", 2])],
        [
            array(weight.float().numpy(), "model.w"),
            array(np.ones(2, np.float32), "own"),
            # As a scale that was multiplied into it would do.
            array(2 * weight.float().numpy(), "model.changed"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    link_weights(model, tmp_path / "model.safetensors")
    assert list(linked(model)) == ["w"]
    path = tmp_path / "linear.onnx"
    path.write_bytes(model.SerializeToString())
    identity = np.eye(3, dtype=np.float32)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": identity})
    np.testing.assert_array_equal(product, (weight.float() + 1).numpy())
