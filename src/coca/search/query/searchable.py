"""Searchable: what a search engine asks of a collection, whatever holds its vectors."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from coca.search.milvus.collection import Side
from coca.search.records import CollectionInfo, GroupBy, Hit, Record


@runtime_checkable
class Searchable(Protocol):
    """A collection to search: a `Collection`, or an `InMemoryIndex` of its vectors."""

    info: CollectionInfo

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        *,
        filter: str = "",
        offset: int = 0,
        on: Side = "image",
        group_by: GroupBy | None = None,
    ) -> list[list[Hit]]:
        """The nearest records to each vector, nearest first; see `Collection.search`."""
        ...

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """The records with these ids, as far as they are there."""
        ...


def cosine(query: Float[np.ndarray, " E"], record: Record, on: Side) -> float:
    """Compute the cosine of a query and a record; -1 for a caption that has no vector.

    Args:
        query: Of length 1.
        record: With its vectors.
        on: Whether to compare with the image or with the caption.
    """
    vector = record.vector if on == "image" else record.text_vector
    return -1.0 if vector is None else float(query @ vector)
