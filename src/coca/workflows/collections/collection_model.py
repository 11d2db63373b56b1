"""Model reference of a collection: the name under which its model is stored and found again."""

import os
from pathlib import Path

from coca.core.errors import ModelError
from coca.inference.loading import fingerprint, shipped
from coca.inference.predictor import Predictor
from coca.search.records import CollectionInfo, same_model


def lasting_name(predictor: Predictor) -> str:
    """Return the name of a shipped model, else the absolute path of the model folder.

    A path of a shipped model would be valid for this installation only.
    """
    folder = os.path.abspath(predictor.source)
    for name, home in shipped().items():
        if folder == os.path.abspath(home):
            return name
    return folder


def model_of(info: CollectionInfo) -> str:
    """Return the model to load for a collection.

    A shipped model with the collection's fingerprint takes precedence over the stored path.

    Raises:
        ModelError: The model no longer exists.
    """
    for name, home in shipped().items():
        if same_model(info.fingerprint, fingerprint(home)):
            return name
    if info.model and Path(info.model).exists():
        return info.model
    filled_by = (
        f"by the model {info.model}, which no longer exists"
        if info.model
        else "by a model without a name"
    )
    raise ModelError(
        f"collection {info.collection!r} in {info.uri} was filled {filled_by}: name its folder by "
        f"--model; its fingerprint is {info.fingerprint}"
    )
