"""Joins a model to a collection of classes: zero-shot classification by nearest neighbours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ConfigError, SearchError
from coca.inference.head_inference import Prediction
from coca.inference.inputs import Picture
from coca.inference.predictor import Predictor
from coca.search.milvus.catalog import check_place, neighbours
from coca.search.milvus.collection import Collection
from coca.search.records import CollectionInfo, check_same_model
from coca.workflows.collections.collection_model import lasting_name


def find_classes(uri: str, collection: str, *, token: str = "") -> CollectionInfo:
    """What a collection of classes says about itself, except for its `count`.

    Raises:
        SearchError: It is missing, or cannot be reached.
    """
    found = check_place(uri, collection, token=token)
    if found is None:
        raise SearchError(
            f"there is no collection {collection!r} in {uri}: `coca classes add LABELS "
            f"--collection {collection}` makes one"
        )
    return found


def info_beside(
    uri: str, collection: str, *, pictures: str = "pictures", token: str = ""
) -> CollectionInfo | None:
    """The collection whose model classes need: their own, else one of images in that place.

    Args:
        uri: As for `Collection.open`.
        collection: Of the classes; it need not be there.
        pictures: Which of several goes first.
        token: As for `Collection.open`.

    Returns:
        None if nothing is there.

    Raises:
        ConfigError: The collections there are of several models, and none is called `pictures`.
        SearchError: As `check_place`.
    """
    for name in (collection, pictures):
        if (found := check_place(uri, name, token=token)) is not None:
            return found
    others = neighbours(uri, token=token)
    if len({one.fingerprint for one in others}) > 1:
        named = ", ".join(f"{one.collection} by {one.model or one.fingerprint}" for one in others)
        raise ConfigError(
            f"the collections in {uri} were filled by several models ({named}): name the one for "
            "these classes by --model"
        )
    return others[0] if others else None


def check_classes_model(info: CollectionInfo, predictor: Predictor) -> None:
    """Refuse a model whose vectors cannot be compared with a collection of classes.

    Raises:
        SearchError: The collection belongs to another model.
    """
    check_same_model(
        info,
        fingerprint=predictor.fingerprint,
        embed_dim=predictor.embed_dim,
        maker="coca classes add LABELS",
    )


@contextmanager
def open_classes(
    predictor: Predictor,
    uri: str,
    collection: str = "classes",
    *,
    token: str = "",
    create: bool = False,
) -> Iterator[Collection]:
    """Opens a collection of classes for a model, or makes it; closes it at the end.

    Raises:
        SearchError: It is missing, or belongs to another model.
    """
    there = check_place if create else find_classes
    if (found := there(uri, collection, token=token)) is not None:
        check_classes_model(found, predictor)
    with Collection.open(
        uri,
        collection,
        token=token,
        embed_dim=predictor.embed_dim,
        fingerprint=predictor.fingerprint,
        model=lasting_name(predictor),
        create=create,
    ) as index:
        yield index


def classify_by(
    predictor: Predictor,
    labels: Sequence[str],
    vectors: Float32[np.ndarray, "K E"],
    images: Sequence[Picture],
) -> list[list[Prediction]]:
    """Sort all classes of a collection by how well they fit each image, as `Predictor.classify`.

    Args:
        predictor: The model that the classes belong to.
        labels: Their names, as `read_classes` returns them.
        vectors: Their vectors.
        images: The images.

    Raises:
        DataError: An image cannot be read.
    """
    logits = predictor.logit_scale * (predictor.embed_images(images) @ vectors.T)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = odds / odds.sum(axis=1, keepdims=True)
    # Equal classes by name.
    return [
        [Prediction(labels[at], float(row[at])) for at in np.argsort(-row, kind="stable")]
        for row in shares
    ]
