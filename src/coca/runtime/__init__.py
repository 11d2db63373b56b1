"""ONNX inference without torch: embeddings, captions and scores of an exported model."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coca.runtime.predictor import Predictor, load

__all__ = ["Predictor", "load"]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for, since `coca --help` needs none of them.

    The commands import options of generation from this package.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("coca.runtime.predictor"), name)
