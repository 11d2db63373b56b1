"""Model argument of the adapters: a loaded model, or a name that `coca.load` accepts."""

from pathlib import Path
from typing import TypeAlias

from coca.inference.loading import load
from coca.inference.predictor import Predictor

ModelName: TypeAlias = Predictor | str | Path
"""A loaded model, or its name or folder."""


def as_predictor(model: ModelName, *, device: str | None = None) -> Predictor:
    """Return the model itself, or load it by its name.

    Args:
        model: A loaded model, or a name that `coca.load` accepts.
        device: Torch device of a model that is loaded; default: the first accelerator, else the
            CPU.
    """
    return model if isinstance(model, Predictor) else load(model, device=device)
