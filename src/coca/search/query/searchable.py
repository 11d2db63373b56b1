"""Protocol of a searchable collection, on Milvus or in memory."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from coca.search.milvus.collection import Side
from coca.search.records import CollectionInfo, GroupBy, Hit, Record


@runtime_checkable
class Searchable(Protocol):
    """Searchable collection: a `Collection`, or an `InMemoryIndex` of its vectors."""

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
        """Find the nearest records to each vector, nearest first; see `Collection.search`."""
        ...

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        ...


def cosine(query: Float[np.ndarray, " E"], record: Record, on: Side) -> float:
    """Compute the cosine of a query and a record; -1 for a caption that has no vector.

    Args:
        query: Query vector, of length 1.
        record: Record with its vectors.
        on: Vector field: `"image"` or `"text"` (caption).
    """
    vector = record.vector if on == "image" else record.text_vector
    return -1.0 if vector is None else float(query @ vector)
