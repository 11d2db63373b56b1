"""ONNX graphs of a model folder that read its `model.safetensors`, so it runs without torch.

    python -m coca.release.onnx.linked_graphs src/coca/weights/everyday

Their tensors are byte ranges of the weights file, as external data of ONNX, which are converted to
fp32 when a graph is opened. What is computed for an export, such as vectors of class names, stays.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.torch import load_file

from coca.core.extras import require
from coca.core.files.atomic import sha256_file, write_atomic, write_json
from coca.model.pretrained import WEIGHTS_FILE
from coca.predict.manifest import GRAPHS, MANIFEST_FILE, PREPROCESS_FILE, read_manifest
from coca.predict.model_kinds import MODEL_FILES
from coca.predict.torch_loading import load_coca
from coca.release.onnx.onnx_export import write_files

_TYPES = {"F32": 1, "F16": 10, "BF16": 16}
"""Type in a safetensors file -> `onnx.TensorProto.DataType`."""
_PREFIX = "model."
"""Prefix of the parameters' names in the module that is translated."""


def write_linked_graphs(folder: str | Path) -> None:
    """Write graphs, preprocessing and manifest into a model folder."""
    onnx = require("onnx", extra="onnx")
    folder = Path(folder)
    with TemporaryDirectory() as scratch:
        exported, predictor = Path(scratch), load_coca(folder, device="cpu", prepack=False)
        write_files(exported, predictor, "fp32", name=folder.name, optimize=False)
        for name in (f"{graph}.onnx" for graph in GRAPHS):
            graph = onnx.load(exported / name)
            link_weights(graph, folder / WEIGHTS_FILE)
            write_atomic(folder / name, graph.SerializeToString(deterministic=True))
        write_atomic(folder / PREPROCESS_FILE, (exported / PREPROCESS_FILE).read_bytes())
        manifest = read_manifest(exported)
    files = {name: sha256_file(folder / name) for name in (*manifest.files, *MODEL_FILES)}
    write_json(folder / MANIFEST_FILE, asdict(replace(manifest, files=files)))


def link_weights(model: Any, weights: Path) -> None:
    """Replace tensors of an ONNX model by equal ones of a safetensors file of the same folder.

    Tensors that are not in the file, such as a buffer, stay in the model.
    """
    onnx = require("onnx", extra="onnx")
    (entries, start), values = _entries(weights), load_file(weights)
    graph = model.graph
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        name = tensor.name.removeprefix(_PREFIX)
        if name not in entries or not np.array_equal(
            onnx.numpy_helper.to_array(tensor), values[name].float().numpy()
        ):
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
    write_linked_graphs(sys.argv[1])
