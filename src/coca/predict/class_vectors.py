"""Vectors of the classes that an image encoder knows, read from a model's folder without torch.

Dimensions: K classes, E embedding.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ModelError
from coca.predict.short_vectors import normalized

_TENSOR = "class_branch.vectors"
_TYPES = {"F16": "<f2", "F32": "<f4"}


def read_class_vectors(folder: Path) -> Float32[np.ndarray, "K E"] | None:
    """Read the class vectors of `model.safetensors`, with length 1; None if it has none.

    Raises:
        ModelError: The file is damaged.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
            tensor = json.loads(header).get(_TENSOR)
            if tensor is None:
                return None
            start, end = tensor["data_offsets"]
            file.seek(8 + len(header) + start)
            values = np.frombuffer(file.read(end - start), _TYPES[tensor["dtype"]])
            return normalized(values.reshape(tensor["shape"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
