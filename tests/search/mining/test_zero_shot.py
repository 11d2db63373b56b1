import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from coca.core.errors import SearchError
from coca.search.milvus.collection import Collection
from coca.search.mining.zero_shot import (
    add_classes,
    class_names,
    nearest_classes,
    read_classes,
    remove_classes,
)
from coca.search.query.collection_copy import CollectionCopy

LABELS = [f"class {n}" for n in range(30)]
PROMPTS = ["a photo of {}", "a drawing of {}"]


def class_vectors(
    embedder: Any, labels: Sequence[str], templates: Sequence[str]
) -> Float32[np.ndarray, "K E"]:
    """The mean over the prompts of each label, of length 1."""
    means = np.stack(
        [
            embedder.embed_texts([one.format(label) for one in templates]).mean(axis=0)
            for label in labels
        ]
    )
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def test_the_collection_answers_as_all_products_in_memory(
    collection: Collection, embedder: Any
) -> None:
    add_classes(collection, embedder, LABELS, templates=PROMPTS)
    images = np.stack([embedder.direction(f"p{n}".encode()) for n in range(50)])
    scores = images @ class_vectors(embedder, LABELS, PROMPTS).T
    in_memory = [LABELS[row] for row in scores.argmax(axis=1)]
    for classes in (collection, CollectionCopy(collection)):
        found = nearest_classes(classes, images, k=30)
        assert [row[0].label for row in found] == in_memory
        assert [row[0].score for row in found] == pytest.approx(scores.max(axis=1), abs=1e-5)
        assert all({one.label for one in row} == set(LABELS) for row in found)


def test_all_classes_are_read_in_the_order_of_their_names(
    collection: Collection, embedder: Any
) -> None:
    add_classes(collection, embedder, ["b", "c", "a"], templates=["{}"])
    names, vectors = read_classes(collection)
    assert names == ["a", "b", "c"]
    np.testing.assert_allclose(vectors, class_vectors(embedder, names, ["{}"]), atol=1e-6)


def test_classes_come_change_and_go_while_in_use(collection: Collection, embedder: Any) -> None:
    add_classes(collection, embedder, ["cat", "dog"], templates=["{}"])
    classes = CollectionCopy(collection)
    image = embedder.direction(b"zebra")[np.newaxis]
    assert nearest_classes(classes, image)[0][0].label in ("cat", "dog")
    add_classes(collection, embedder, ["zebra"], templates=["{}"])
    assert nearest_classes(classes, image, k=1)[0][0].label == "zebra"
    assert class_names(collection) == ["cat", "dog", "zebra"]
    add_classes(collection, embedder, ["zebra"], templates=["a {}"])
    assert nearest_classes(classes, image, k=3)[0] != nearest_classes(classes, image, k=1)[0]
    remove_classes(collection, ["zebra", "cat"])
    assert [one.label for one in nearest_classes(classes, image)[0]] == ["dog"]
    with pytest.raises(SearchError, match="no class 'zebra'"):
        remove_classes(collection, ["dog", "zebra"])
    assert class_names(collection) == ["dog"]


def test_images_and_other_models_are_kept_apart(
    collection: Collection, embedder: Any, make_record: Any
) -> None:
    collection.upsert([make_record("picture")])
    for refused in (
        lambda: add_classes(collection, embedder, ["x"], templates=["{}"]),
        lambda: class_names(collection),
    ):
        with pytest.raises(SearchError, match="contains 1 images"):
            refused()
    other = copy.copy(embedder)
    other.fingerprint = "model-two"
    with pytest.raises(SearchError, match="and not by model-two"):
        add_classes(collection, other, ["x"], templates=["{}"])
