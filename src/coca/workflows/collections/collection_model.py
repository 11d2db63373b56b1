"""Model of a collection: open a collection with its model, and find the model of a collection."""

import os
from pathlib import Path

from coca.core.errors import ModelError
from coca.inference.loading import fingerprint, shipped
from coca.inference.predictor import Predictor
from coca.search.milvus.collection import Collection
from coca.search.milvus.collection_config import CollectionSettings
from coca.search.records import CollectionInfo, same_model


def open_collection(
    predictor: Predictor,
    uri: str,
    collection: str = "pictures",
    *,
    token: str = "",
    create: bool = False,
    staged: bool = False,
    settings: CollectionSettings | None = None,
) -> Collection:
    """Open or create the collection of a model's vectors; the caller closes it.

    Args:
        predictor: The model; an existing collection must hold its vectors.
        uri: As for `Collection.open`, as are all further arguments.
        collection: Name of the collection.
        token: `"user:password"` or an API key, if the server requires one.
        create: Create the collection if it is missing.
        staged: Create it without its public name.
        settings: Settings of a new collection; default: those of `CollectionSettings`.

    Raises:
        SearchError: The collection is missing, or was filled by another model.
    """
    return Collection.open(
        uri,
        collection,
        token=token,
        embed_dim=predictor.embed_dim,
        fingerprint=predictor.fingerprint,
        model=lasting_name(predictor),
        create=create,
        staged=staged,
        settings=settings,
    )


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
