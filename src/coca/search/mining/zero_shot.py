"""Zero-shot classification by a collection of class embeddings: one record a class.

Any number of images against any number of classes, by nearest neighbours; classes come and go
while it is in use. A class's vector is the mean over its prompts, as in CLIP and CoCa.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import SearchError
from coca.search.milvus.collection import Collection
from coca.search.query.searchable import Searchable
from coca.search.records import CollectionInfo, Record, check_same_model, content_id

TEMPLATES = "templates"
"""The key of a class's metadata that holds its prompts."""


@runtime_checkable
class ClassEmbedder(Protocol):
    """Turns names of classes into vectors; a loaded model is one."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors would."""
        ...

    @property
    def embed_dim(self) -> int:
        """Numbers in a vector."""
        ...

    def class_embeddings(
        self, labels: Sequence[str], *, templates: Sequence[str]
    ) -> Float32[np.ndarray, "K E"]:
        """One vector of length 1 for each label: the mean over its prompts."""
        ...


@dataclass(frozen=True)
class Class:
    """A class that an image may belong to."""

    label: str
    score: float
    """Cosine of the image and the class, -1 to 1."""


def add_classes(
    index: Collection, embedder: ClassEmbedder, labels: Sequence[str], *, templates: Sequence[str]
) -> None:
    """Put classes into a collection; one that is there gets its vector anew.

    Args:
        index: A collection that holds classes and nothing else.
        embedder: The model that the collection belongs to.
        labels: Names of classes.
        templates: Sentences with `{}` for the label.

    Raises:
        SearchError: The collection belongs to another model, or holds images.
        ConfigError: A template without `{}`, or a label twice.
    """
    check_same_model(index.info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim)
    _check_holds_classes(index)
    vectors = embedder.class_embeddings(labels, templates=templates)
    index.upsert(
        Record(
            id=_id_of(label),
            path="",
            caption=label,
            metadata={TEMPLATES: list(templates)},
            vector=np.asarray(vector, np.float32),
        )
        for label, vector in zip(labels, vectors, strict=True)
    )
    index.flush()


def remove_classes(index: Collection, labels: Sequence[str]) -> None:
    """Take classes out of a collection.

    Raises:
        SearchError: One of them is not there; none is removed then.
    """
    there = {record.caption for record in index.get(map(_id_of, labels)).values()}
    if missing := [label for label in labels if label not in there]:
        raise SearchError(f"there is no class {missing[0]!r} in {index.info.collection!r}")
    index.delete(map(_id_of, labels))
    index.flush()


def class_names(index: Collection) -> list[str]:
    """The names of all classes, sorted.

    Raises:
        SearchError: The collection holds images.
    """
    _check_holds_classes(index)
    return sorted(caption for _, _, caption, _ in index.origins())


def nearest_classes(
    classes: Searchable, pictures: Float[np.ndarray, "N E"], *, k: int = 5
) -> list[list[Class]]:
    """The classes nearest to each image, the nearest first.

    Args:
        classes: The collection; an `InMemoryIndex` of it is exact.
        pictures: Their vectors, each of length 1.
        k: How many classes for each, at most.

    Raises:
        SearchError: The collection holds no class, or images.
    """
    answers = classes.search(pictures, k)
    for hits in answers:
        if not hits:
            raise SearchError(_nothing(classes.info))
        if pictured := [hit.path for hit in hits if hit.path]:
            raise SearchError(
                f"collection {classes.info.collection!r} holds images, such as {pictured[0]}, "
                "and not classes: name one that `coca classes add` filled"
            )
    return [[Class(hit.caption, hit.score) for hit in hits] for hits in answers]


def read_classes(index: Collection) -> tuple[list[str], Float32[np.ndarray, "K E"]]:
    """Return the names of all classes, sorted, and their vectors.

    Raises:
        SearchError: The collection holds no class, or images.
    """
    _check_holds_classes(index)
    vectors = {one.caption: one.vector for batch in index.read_through() for one in batch}
    if not vectors:
        raise SearchError(_nothing(index.info))
    names = sorted(vectors)
    return names, np.stack([vectors[name] for name in names])


def _nothing(info: CollectionInfo) -> str:
    return f"collection {info.collection!r} holds no class: add some by `coca classes add`"


def _id_of(label: str) -> str:
    return content_id(f"class {label}".encode())


def _check_holds_classes(index: Collection) -> None:
    others = index.count('path != ""')
    if others:
        raise SearchError(
            f"collection {index.info.collection!r} holds {others:,} images; "
            "classes need one of their own: name another"
        )
