"""Zero-shot classification with class embeddings that are stored in a collection."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ConfigError, SearchError
from coca.predict.inputs import Prediction, predictions
from coca.predict.predictor import Predictor
from coca.processing.image_file import ImageInput
from coca.search.records import CollectionInfo, check_same_model
from coca.search.store import CLASSES_COLLECTION, DEFAULT_COLLECTION, Collection
from coca.workflows.collections.collection_model import infos_at, open_collection


def find_classes(uri: str, collection: str, *, token: str = "") -> CollectionInfo:
    """Describe a collection of classes."""
    found = infos_at(uri, token=token).get(collection)
    if found is None:
        raise SearchError(
            f"there is no collection {collection!r} in {uri}: `coca classes add LABELS "
            f"--collection {collection}` makes one"
        )
    return found


def info_at(uri: str, collection: str, *, token: str = "") -> CollectionInfo | None:
    """Find the collection whose model classes need: their own, else an image collection at `uri`.

    Returns:
        Info of the collection; None if there is none at `uri`.
    """
    infos = infos_at(uri, token=token)
    for name in (collection, DEFAULT_COLLECTION):
        if name in infos:
            return infos[name]
    if len({info.fingerprint for info in infos.values()}) > 1:
        named = ", ".join(f"{name} by {it.model or it.fingerprint}" for name, it in infos.items())
        raise ConfigError(
            f"the collections in {uri} were filled by several models ({named}): name the one for "
            "these classes with --model"
        )
    return next(iter(infos.values()), None)


def check_classes_model(info: CollectionInfo, predictor: Predictor) -> None:
    """Check that a model's vectors are comparable with a collection of classes."""
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
    collection: str = CLASSES_COLLECTION,
    *,
    token: str = "",
    create: bool = False,
) -> Iterator[Collection]:
    """Open a collection of classes for a model, and close it at the end.

    With `create` it is created if missing.
    """
    if not create or collection in infos_at(uri, token=token):
        check_classes_model(find_classes(uri, collection, token=token), predictor)
    with open_collection(predictor, uri, collection, token=token, create=create) as opened:
        yield opened


def classify_by(
    predictor: Predictor,
    labels: Sequence[str],
    vectors: Float32[np.ndarray, "K E"],
    images: Sequence[ImageInput],
) -> list[list[Prediction]]:
    """Rank all classes of a collection by probability for each image, as `Predictor.classify`."""
    logits = predictor.logit_scale * (predictor.embed_images(images) @ vectors.T)
    return predictions(logits, labels)
