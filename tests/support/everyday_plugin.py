"""The plug-in of the recipe `everyday`, registered for one test only."""

from importlib import import_module
from typing import Any

import pytest

from coca.train.losses import AUXILIARY_LOSSES


def register_losses(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register the losses as `--plugin` does, until the end of the test; return the module."""
    # The first import registers them as well: in a table that the test forgets.
    monkeypatch.setattr(AUXILIARY_LOSSES, "_entries", {})
    module = import_module("everyday_losses")
    losses = {
        "classifier": module.Classifier,
        "copying": module.Copying,
        "sentences": module.Sentences,
    }
    monkeypatch.setattr(AUXILIARY_LOSSES, "_entries", losses)
    return module
