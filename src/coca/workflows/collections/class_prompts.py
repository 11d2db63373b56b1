"""Zero-shot classification with class embeddings that are stored in a collection."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ConfigError, SearchError
from coca.runtime.base_predictor import BasePredictor
from coca.runtime.inputs import ImageInput, Prediction, predictions
from coca.search.milvus.catalog import check_fillable, neighbours
from coca.search.milvus.collection import Collection
from coca.search.records import CollectionInfo, check_same_model
from coca.workflows.collections.collection_model import open_collection


def find_classes(uri: str, collection: str, *, token: str = "") -> CollectionInfo:
    """Return the info of a collection of classes, without its `count`."""
    found = check_fillable(uri, collection, token=token)
    if found is None:
        raise SearchError(
            f"there is no collection {collection!r} in {uri}: `coca classes add LABELS "
            f"--collection {collection}` makes one"
        )
    return found


def info_at(
    uri: str, collection: str, *, images: str = "pictures", token: str = ""
) -> CollectionInfo | None:
    """Find the collection whose model classes need: their own, else an image collection at `uri`.

    Returns:
        Info of the collection; None if there is none at `uri`.
    """
    for name in (collection, images):
        if (found := check_fillable(uri, name, token=token)) is not None:
            return found
    others = neighbours(uri, token=token)
    if len({one.fingerprint for one in others}) > 1:
        named = ", ".join(f"{one.collection} by {one.model or one.fingerprint}" for one in others)
        raise ConfigError(
            f"the collections in {uri} were filled by several models ({named}): name the one for "
            "these classes with --model"
        )
    return others[0] if others else None


def check_classes_model(info: CollectionInfo, predictor: BasePredictor) -> None:
    """Check that a model's vectors are comparable with a collection of classes."""
    check_same_model(
        info,
        fingerprint=predictor.fingerprint,
        embed_dim=predictor.embed_dim,
        maker="coca classes add LABELS",
    )


@contextmanager
def open_classes(
    predictor: BasePredictor,
    uri: str,
    collection: str = "classes",
    *,
    token: str = "",
    create: bool = False,
) -> Iterator[Collection]:
    """Open a collection of classes for a model, and close it at the end.

    With `create` it is created if missing.
    """
    there = check_fillable if create else find_classes
    if (found := there(uri, collection, token=token)) is not None:
        check_classes_model(found, predictor)
    with open_collection(predictor, uri, collection, token=token, create=create) as opened:
        yield opened


def classify_by(
    predictor: BasePredictor,
    labels: Sequence[str],
    vectors: Float32[np.ndarray, "K E"],
    images: Sequence[ImageInput],
) -> list[list[Prediction]]:
    """Rank all classes of a collection by probability for each image, as `Predictor.classify`."""
    logits = predictor.logit_scale * (predictor.embed_images(images) @ vectors.T)
    return predictions(logits, labels)
