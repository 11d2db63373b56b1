"""Joins a model to a collection of classes: zero-shot classification by nearest neighbours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float32

from coca.inference.answering import Prediction
from coca.inference.given import Picture
from coca.inference.predictor import Predictor
from coca.search.milvus import Index
from coca.workflows.collection_model import lasting_name


@contextmanager
def open_classes(
    predictor: Predictor,
    uri: str,
    collection: str = "classes",
    *,
    token: str = "",
    create: bool = False,
) -> Iterator[Index]:
    """Opens a collection of classes for a model, or makes it; closes it at the end.

    Raises:
        SearchError: It is missing, or belongs to another model.
    """
    with Index.open(
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
    """Sort all classes of a collection by how well they fit each picture, as `Predictor.classify`.

    Args:
        predictor: The model that the classes belong to.
        labels: Their names, as `read_classes` returns them.
        vectors: Their vectors.
        images: The pictures.

    Raises:
        DataError: A picture cannot be read.
    """
    logits = predictor.logit_scale * (predictor.embed_images(images) @ vectors.T)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = odds / odds.sum(axis=1, keepdims=True)
    # Equal classes by name.
    return [
        [Prediction(labels[at], float(row[at])) for at in np.argsort(-row, kind="stable")]
        for row in shares
    ]
