"""Joins a model to a collection of classes: zero-shot classification by nearest neighbours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from coca.inference.answering import Prediction
from coca.inference.given import Picture
from coca.inference.predictor import Predictor
from coca.search.classify import nearest_classes
from coca.search.engine import Searchable
from coca.search.milvus import Index
from coca.search.records import check_same_model
from coca.workflows.collection_model import lasting_name

_MOST = 1_000
"""Classes that share the probability of a picture; those further away have none to speak of."""


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
    classes: Searchable, predictor: Predictor, images: Sequence[Picture]
) -> list[list[Prediction]]:
    """Sorts classes of a collection by how well they fit each picture, as `Predictor.classify`.

    Raises:
        SearchError: The collection belongs to another model, or holds pictures or nothing.
        DataError: A picture cannot be read.
    """
    check_same_model(classes.info, fingerprint=predictor.fingerprint, embed_dim=predictor.embed_dim)
    answers = nearest_classes(classes, predictor.embed_images(images), k=_MOST)
    predictions = []
    for found in answers:
        logits = predictor.logit_scale * np.array([one.score for one in found])
        odds = np.exp(logits - logits.max())
        shares = odds / odds.sum()
        predictions.append(
            [Prediction(one.label, float(p)) for one, p in zip(found, shares, strict=True)]
        )
    return predictions
