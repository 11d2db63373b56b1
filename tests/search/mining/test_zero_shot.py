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
from coca.search.query.in_memory import InMemoryIndex


class Model:
    """Embeds each label by the rule of the fake model; prompts change the vector."""

    def __init__(self, embedder: Any) -> None:
        self.fingerprint, self.embed_dim = embedder.fingerprint, embedder.embed_dim
        self._direction = embedder.direction

    def class_embeddings(
        self, labels: Sequence[str], *, templates: Sequence[str]
    ) -> Float32[np.ndarray, "K E"]:
        return np.stack(
            [
                self._direction("|".join(one.format(label) for one in templates).encode())
                for label in labels
            ]
        )


@pytest.fixture
def model(embedder: Any) -> Model:
    return Model(embedder)


LABELS = [f"class {n}" for n in range(30)]
PROMPTS = ["a photo of {}", "a drawing of {}"]


def test_the_collection_answers_as_all_products_in_memory(
    index: Collection, model: Model, embedder: Any
) -> None:
    add_classes(index, model, LABELS, templates=PROMPTS)
    images = np.stack([embedder.direction(f"p{n}".encode()) for n in range(50)])
    scores = images @ model.class_embeddings(LABELS, templates=PROMPTS).T
    in_memory = [LABELS[row] for row in scores.argmax(axis=1)]
    for classes in (index, InMemoryIndex(index)):
        found = nearest_classes(classes, images, k=30)
        assert [row[0].label for row in found] == in_memory
        assert [row[0].score for row in found] == pytest.approx(scores.max(axis=1), abs=1e-5)
        assert all({one.label for one in row} == set(LABELS) for row in found)


def test_all_classes_are_read_in_the_order_of_their_names(
    index: Collection, model: Model, embedder: Any
) -> None:
    add_classes(index, model, ["b", "c", "a"], templates=["{}"])
    names, vectors = read_classes(index)
    assert names == ["a", "b", "c"]
    np.testing.assert_allclose(vectors, model.class_embeddings(names, templates=["{}"]), atol=1e-6)


def test_classes_come_change_and_go_while_in_use(
    index: Collection, model: Model, embedder: Any
) -> None:
    add_classes(index, model, ["cat", "dog"], templates=["{}"])
    classes = InMemoryIndex(index)
    image = embedder.direction(b"zebra")[np.newaxis]
    assert nearest_classes(classes, image)[0][0].label in ("cat", "dog")
    add_classes(index, model, ["zebra"], templates=["{}"])
    assert nearest_classes(classes, image, k=1)[0][0].label == "zebra"
    assert class_names(index) == ["cat", "dog", "zebra"]
    add_classes(index, model, ["zebra"], templates=["a {}"])
    assert nearest_classes(classes, image, k=3)[0] != nearest_classes(classes, image, k=1)[0]
    remove_classes(index, ["zebra", "cat"])
    assert [one.label for one in nearest_classes(classes, image)[0]] == ["dog"]
    with pytest.raises(SearchError, match="no class 'zebra'"):
        remove_classes(index, ["dog", "zebra"])
    assert class_names(index) == ["dog"]


def test_images_and_other_models_are_kept_apart(
    index: Collection, model: Model, make_record: Any
) -> None:
    index.upsert([make_record("picture")])
    for refused in (
        lambda: add_classes(index, model, ["x"], templates=["{}"]),
        lambda: class_names(index),
    ):
        with pytest.raises(SearchError, match="contains 1 images"):
            refused()
    model.fingerprint = "model-two"
    with pytest.raises(SearchError, match="and not by model-two"):
        add_classes(index, model, ["x"], templates=["{}"])
