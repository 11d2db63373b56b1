"""8-bit convolutions and matrix products of small graphs, run by ONNX Runtime."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from coca.release.onnx.quantize import FLOAT_CONVOLUTIONS, quantize

onnx = pytest.importorskip("onnx", reason="needs the extra onnx; run `make test-export`")
runtime = pytest.importorskip("onnxruntime")

SIDE, WIDTH = 16, 8


def write_graph(path: Path, *, convolutions: int) -> None:
    """Write pixels -> convolutions with ReLU6 -> mean over positions -> matrix product."""
    random = np.random.default_rng(0)
    make, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [make("Cast", ["pixels"], ["0"], to=onnx.TensorProto.FLOAT)]
    weights = [array(np.float32(0), "low"), array(np.float32(6), "high")]
    for number in range(convolutions):
        shape = (WIDTH, WIDTH if number else 3, 3, 3)
        # Channels of different ranges, which one scale for all would not represent.
        kernel = random.normal(0, 1, shape) * np.logspace(-2, 0, WIDTH)[:, None, None, None]
        weights.append(array((kernel / (1 if number else 99)).astype(np.float32), f"w{number}"))
        nodes.append(make("Conv", [str(number), f"w{number}"], [f"c{number}"], name=f"n{number}"))
        nodes.append(make("Clip", [f"c{number}", "low", "high"], [str(number + 1)]))
    nodes.append(make("GlobalAveragePool", [str(convolutions)], ["pooled"]))
    nodes.append(make("Flatten", ["pooled"], ["flat"]))
    weights.append(array(random.normal(0, 1, (WIDTH, 4)).astype(np.float32), "head"))
    nodes.append(make("MatMul", ["flat", "head"], ["image_embeds"]))
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "vision",
        [value("pixels", onnx.TensorProto.UINT8, ["batch", 3, SIDE, SIDE])],
        [value("image_embeds", onnx.TensorProto.FLOAT, ["batch", 4])],
        weights,
    )
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), str(path))


def embed(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pixels": pixels})
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 3, SIDE, SIDE)).astype(np.uint8)


@pytest.mark.filterwarnings("ignore")
def test_convolutions_are_quantized_and_a_float_copy_is_kept(tmp_path: Path) -> None:
    path, copy = tmp_path / "vision.onnx", tmp_path / "copy.onnx"
    write_graph(path, convolutions=FLOAT_CONVOLUTIONS + 2)
    before, pixels = path.read_bytes(), images(24)
    expected = embed(path, pixels)
    quantize(path, list(pixels[:16]), float_copy=copy)
    assert copy.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["copy.onnx", "vision.onnx"]
    weights = {tensor.name: tensor for tensor in onnx.load(str(path)).graph.initializer}
    int8 = [name for name, one in weights.items() if one.data_type == onnx.TensorProto.INT8]
    quantized = {name[:2] for name in int8 if name.startswith("w") and "zero" not in name}
    assert quantized == {f"w{number}" for number in (FLOAT_CONVOLUTIONS, FLOAT_CONVOLUTIONS + 1)}
    assert (embed(path, pixels) * expected).sum(axis=1).mean() > 0.995


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("convolutions", "calibrated"), [(1, 8), (FLOAT_CONVOLUTIONS, 8), (FLOAT_CONVOLUTIONS + 2, 0)]
)
def test_the_first_convolutions_and_those_without_images_stay_in_float(
    convolutions: int, calibrated: int, tmp_path: Path
) -> None:
    path, copy = tmp_path / "vision.onnx", tmp_path / "copy.onnx"
    write_graph(path, convolutions=convolutions)
    quantize(path, list(images(calibrated)), float_copy=copy)
    assert not copy.exists()
    kinds = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    assert kinds["Conv"] == convolutions
    assert kinds["MatMul"] == 0
    assert kinds["MatMulInteger"] == 1
