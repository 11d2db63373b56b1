"""How a collection names the model that filled it, so that it is found again from anywhere."""

import os
from pathlib import Path

from coca.core.errors import ModelError
from coca.inference.loading import fingerprint, shipped
from coca.inference.predictor import Predictor
from coca.search.records import CollectionInfo, same_model


def lasting_name(predictor: Predictor) -> str:
    """The name of a shipped model, else the absolute path of the folder.

    The path of a shipped one would end with this installation.
    """
    folder = os.path.abspath(predictor.source)
    for name, home in shipped().items():
        if folder == os.path.abspath(home):
            return name
    return folder


def model_of(info: CollectionInfo) -> str:
    """The model to load for a collection, by what it says about itself.

    A shipped model with the collection's fingerprint is that model, wherever it lay.

    Raises:
        ModelError: It is not there.
    """
    for name, home in shipped().items():
        if same_model(info.fingerprint, fingerprint(home)):
            return name
    if info.model and Path(info.model).exists():
        return info.model
    told = (
        f"by the model {info.model}, which is not there any more"
        if info.model
        else ("by a model without a name")
    )
    raise ModelError(
        f"collection {info.collection!r} in {info.uri} was filled {told}: name its folder by "
        f"--model; its fingerprint is {info.fingerprint}"
    )
