"""Zero-shot classification by a collection of class embeddings: one record a class.

Images are classified by their nearest classes. Classes may be added and removed at any time. The
vector of a class is the mean over its prompts, as in CLIP and CoCa.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from coca.core.errors import SearchError
from coca.predict.prompts import class_means, sentences_of
from coca.search.predictor import Embedder
from coca.search.records import Record, check_same_model, record_id
from coca.search.store import Collection

TEMPLATES = "templates"
"""Metadata key of a class's prompts."""


def add_classes(
    collection: Collection, embedder: Embedder, labels: Sequence[str], *, templates: Sequence[str]
) -> None:
    """Add classes to a collection; existing classes are embedded again."""
    check_same_model(
        collection.info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim
    )
    _check_holds_classes(collection)
    groups = sentences_of(labels, templates)
    vectors = class_means(
        embedder.embed_texts([text for group in groups for text in group]), groups
    )
    collection.upsert(
        Record(
            id=_id_of(label),
            path="",
            caption=label,
            metadata={TEMPLATES: list(templates)},
            vector=np.asarray(vector, np.float32),
        )
        for label, vector in zip(labels, vectors, strict=True)
    )
    collection.flush()


def remove_classes(collection: Collection, labels: Sequence[str]) -> None:
    """Remove classes from a collection."""
    there = {record.caption for record in collection.get(map(_id_of, labels)).values()}
    if missing := [label for label in labels if label not in there]:
        raise SearchError(f"there is no class {missing[0]!r} in {collection.info.collection!r}")
    collection.delete(map(_id_of, labels))
    collection.flush()


def class_names(collection: Collection) -> list[str]:
    """List the names of all classes, sorted."""
    _check_holds_classes(collection)
    pages = collection.pages(vectors=False)
    return sorted(record.caption for page in pages for record in page)


def read_classes(collection: Collection) -> tuple[list[str], Float32[np.ndarray, "K E"]]:
    """Read the names of all classes, sorted, and their vectors."""
    _check_holds_classes(collection)
    vectors = {record.caption: record.vector for page in collection.pages() for record in page}
    if not vectors:
        raise SearchError(
            f"collection {collection.info.collection!r} has no class; `coca classes add` adds some"
        )
    names = sorted(vectors)
    return names, np.stack([vectors[name] for name in names])


def _id_of(label: str) -> str:
    return record_id(f"class {label}")


def _check_holds_classes(collection: Collection) -> None:
    others = collection.count('path != ""')
    if others:
        raise SearchError(
            f"collection {collection.info.collection!r} contains {others:,} images; "
            "classes need one of their own: name another"
        )
