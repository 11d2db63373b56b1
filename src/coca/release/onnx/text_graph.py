"""Text graph of a model folder without weights of its own: `text.onnx` for text queries.

    python -m coca.release.onnx.text_graph src/coca/weights/everyday

Its tensors are byte ranges of `model.safetensors`, which are converted to fp32 when the graph is
opened. The printed SHA-256 belongs into `coca.weights.TEXT_GRAPHS`.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from coca.core.extras import require
from coca.core.files.atomic import sha256_file, write_atomic
from coca.inference.loading import load
from coca.inference.model_kinds import MODEL_FILES
from coca.model.pretrained import WEIGHTS_FILE
from coca.release.onnx.graphs import graphs_of, translate
from coca.release.onnx.onnx_export import text_settings
from coca.runtime.text_embedder import METADATA_KEY, TEXT_GRAPH_FILE

_TYPES = {"F32": 1, "F16": 10, "BF16": 16}
"""Type in a safetensors file -> `onnx.TensorProto.DataType`."""
_PREFIX = "model."
"""Prefix of the parameters' names in the module that is translated."""


def write_text_graph(folder: str | Path) -> Path:
    """Write the text graph of a model folder.

    Returns:
        Path of the graph, `text.onnx` in the folder.
    """
    onnx = require("onnx", extra="onnx")
    folder = Path(folder)
    predictor = load(folder, device="cpu", prepack=False)
    model, processor = predictor.model, predictor.processor
    (graph,) = (it for it in graphs_of(model, processor.image_config) if it.name == "text")
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / TEXT_GRAPH_FILE
        translate(graph, path)
        linked = onnx.load(path)
    link_weights(linked, folder / WEIGHTS_FILE)
    about = {
        "logit_scale": predictor.logit_scale,
        "preprocess": {
            "image": asdict(processor.image_config.settings(resampler="pillow")),
            "text": asdict(text_settings(model.config.text, processor)),
        },
        "files": {name: sha256_file(folder / name) for name in MODEL_FILES},
    }
    onnx.helper.set_model_props(linked, {METADATA_KEY: json.dumps(about)})
    out = folder / TEXT_GRAPH_FILE
    write_atomic(out, linked.SerializeToString(deterministic=True))
    return out


def link_weights(model: Any, weights: Path) -> None:
    """Replace tensors of an ONNX model by byte ranges of a safetensors file of the same folder.

    Tensors that are not in the file, such as concatenated biases, stay in the model.
    """
    onnx = require("onnx", extra="onnx")
    entries, start = _entries(weights)
    graph = model.graph
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        name = tensor.name.removeprefix(_PREFIX)
        if name not in entries:
            continue
        entry = entries[name]
        first, end = entry["data_offsets"]
        cast = onnx.helper.make_node("Cast", [name], [tensor.name], to=tensor.data_type)
        graph.node.insert(0, cast)
        linked = onnx.TensorProto(name=name, dims=tensor.dims, data_type=_TYPES[entry["dtype"]])
        place = {"location": weights.name, "offset": start + first, "length": end - first}
        for key, value in place.items():
            linked.external_data.add(key=key, value=str(value))
        linked.data_location = onnx.TensorProto.EXTERNAL
        tensor.CopyFrom(linked)
    # The signature of the exported program lists all parameters of the whole model.
    for described in (graph, *graph.input, *graph.output):
        del described.metadata_props[:]
    del graph.value_info[:]


def _entries(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header of a safetensors file: its entries, and the offset of the data."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)), 8 + size


if __name__ == "__main__":
    written = write_text_graph(sys.argv[1])
    print(f"{written} {sha256_file(written)}")  # noqa: T201 - for coca.weights.TEXT_GRAPHS
