"""Read state dicts from third-party files, without execution of pickled code."""

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
"""File name extensions of supported weights."""

_WRAPPER_KEYS = ("state_dict", "model_state_dict")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors or `torch.save` file into CPU memory.

    Weights nested in a checkpoint's `state_dict` are found. The prefix `module.` of data-parallel
    training is removed from their names.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} is not a file")
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    for nest in _WRAPPER_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path} has no weights by name, but {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{path} is not a file of weights: {name!r} has the type {type(value).__name__}"
            )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {error}") from None


def _pickled(path: Path) -> Any:
    # Memory mapping reads weights lazily; files in the format before zip do not support it.
    mapped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            # torch warns about files that it then rejects.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} is refused: it is damaged, or contains code that would run as it is read, and "
            "weights need none; ask for a safetensors file"
        ) from None
    except Exception as error:
        # torch raises many types of errors for damaged files.
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{path} is damaged or no file of weights: {line}") from None
