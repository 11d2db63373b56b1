"""Model argument of the adapters: a loaded model, or a name that `coca.load` accepts."""

from pathlib import Path
from typing import TypeAlias

from coca.inference.image_text import load
from coca.runtime.base_predictor import BasePredictor

ModelName: TypeAlias = BasePredictor | str | Path
"""A loaded model, or its name or folder."""


def as_predictor(model: ModelName, *, device: str | None = None) -> BasePredictor:
    """Return the model itself, or load it by its name.

    Args:
        model: A loaded model, or a name that `coca.load` accepts.
        device: Torch device of a model that is loaded; default: the first accelerator, else the
            CPU.
    """
    return model if isinstance(model, BasePredictor) else load(model, device=device)
