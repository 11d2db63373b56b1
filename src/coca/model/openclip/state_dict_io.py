"""Reads weights that others have written: tensors by name, and never any code."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from coca.core.errors import ModelError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
"""What files of weights end in."""

_NESTS = ("state_dict", "model_state_dict")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Reads a file of weights, as safetensors or as what `torch.save` wrote, into CPU memory.

    Weights within a checkpoint's `state_dict` are found, and a leading `module.` of parallel
    training is taken off their names.

    Raises:
        ModelError: The file is missing or damaged, holds code, or holds no tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} is not a file")
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path} holds no weights by name, but {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{path} is no file of weights: {name!r} is no tensor but {type(value).__name__}"
            )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {error}") from None


def _pickled(path: Path) -> Any:
    # Mapped into memory, weights are read only as they are used; older files cannot be.
    mapped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            # It warns of what it then refuses.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} is refused: it is damaged, or holds code that would run as it is read, and "
            "weights need none; ask for a safetensors file"
        ) from None
    except Exception as error:
        # On damaged files torch raises nearly anything.
        raise ModelError(f"{path} is damaged or no file of weights: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
