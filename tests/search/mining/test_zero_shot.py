import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from coca.core.errors import SearchError
from coca.search.mining.zero_shot import (
    add_classes,
    class_names,
    read_classes,
    remove_classes,
)
from coca.search.store import Collection

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


def test_all_classes_are_read_in_the_order_of_their_names(
    collection: Collection, embedder: Any
) -> None:
    add_classes(collection, embedder, ["b", "c", "a"], templates=["{}"])
    names, vectors = read_classes(collection)
    assert names == ["a", "b", "c"]
    np.testing.assert_allclose(vectors, class_vectors(embedder, names, ["{}"]), atol=1e-6)


def test_classes_come_change_and_go(collection: Collection, embedder: Any) -> None:
    add_classes(collection, embedder, ["cat", "dog"], templates=["{}"])
    add_classes(collection, embedder, ["zebra"], templates=["{}"])
    names, before = read_classes(collection)
    assert names == class_names(collection) == ["cat", "dog", "zebra"]
    add_classes(collection, embedder, ["zebra"], templates=PROMPTS)
    _, after = read_classes(collection)
    plain = class_vectors(embedder, ["cat", "dog"], ["{}"])
    prompted = class_vectors(embedder, ["zebra"], PROMPTS)
    np.testing.assert_allclose(after, np.concatenate([plain, prompted]), atol=1e-6)
    assert not np.allclose(before[2], after[2])
    remove_classes(collection, ["zebra", "cat"])
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
