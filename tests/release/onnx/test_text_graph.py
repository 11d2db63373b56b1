"""The text graphs in the package, compared with new translations of the shipped weights."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coca.release.onnx.text_graph import link_weights
from coca.runtime.text_embedder import METADATA_KEY, TEXT_GRAPH_FILE
from coca.weights import shipped

pytest.importorskip("onnxscript", reason="needs the extra onnx; run `make test-export`")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.timeout(600)


def run(path: Path, name: str, value: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value})[0]


def linked(model: Any) -> dict[str, dict[str, str]]:
    """File, offset and length of each tensor that is in another file."""
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.external_data
    }


@pytest.mark.parametrize("name", shipped())
def test_the_text_graph_of_a_shipped_model_equals_a_new_translation(
    name: str, tmp_path: Path
) -> None:
    folder = tmp_path / name
    shutil.copytree(shipped()[name], folder, ignore=shutil.ignore_patterns(TEXT_GRAPH_FILE))
    # In another process, where no shapes are checked.
    command = [sys.executable, "-m", "coca.release.onnx.text_graph", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    paths = [home / TEXT_GRAPH_FILE for home in (shipped()[name], folder)]
    ours, new = (onnx.load(path, load_external_data=False) for path in paths)
    assert linked(ours) == linked(new) != {}
    about, fresh = (
        json.loads({one.key: one.value for one in model.metadata_props}[METADATA_KEY])
        for model in (ours, new)
    )
    assert about == fresh
    text = fresh["preprocess"]["text"]
    ids = np.random.default_rng(0).integers(10, 1_000, (8, text["context_length"]))
    ids[:, 0], ids[:, -len(text["suffix"]) :] = text["bos_id"], text["suffix"]
    stored, wanted = (run(path, "input_ids", ids) for path in paths)
    np.testing.assert_allclose(stored, wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_linked_weights_have_the_values_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    weight = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"other": torch.zeros(5, dtype=dtype), "w": weight}, tmp_path / "model.safetensors")
    value, array = onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "model.w"], ["product"]),
            onnx.helper.make_node("Add", ["product", "own"], ["y"]),
        ],
        "linear",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 3])],
        [value("y", onnx.TensorProto.FLOAT, ["batch", 2])],
        [array(np.zeros((3, 2), np.float32), "model.w"), array(np.ones(2, np.float32), "own")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    link_weights(model, tmp_path / "model.safetensors")
    assert list(linked(model)) == ["w"]
    path = tmp_path / "linear.onnx"
    path.write_bytes(model.SerializeToString())
    identity = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(run(path, "x", identity), (weight.float() + 1).numpy())
