"""Searchable: what a search engine asks of a collection, whatever holds its vectors."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from coca.search.milvus.collection import Side
from coca.search.records import CollectionInfo, Hit, Record


@runtime_checkable
class Searchable(Protocol):
    """A collection that answers: an `Index`, or a `Resident` that keeps its vectors in memory."""

    info: CollectionInfo

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        *,
        filter: str = "",
        offset: int = 0,
        on: Side = "image",
        one_each_album: bool = False,
    ) -> list[list[Hit]]:
        """The nearest records to each vector, nearest first; see `Index.search`."""
        ...

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """The records with these ids, as far as they are there."""
        ...


def cosine(query: Float[np.ndarray, " E"], record: Record, on: Side) -> float:
    """Compute the cosine of a query and a record; -1 for a caption that has no vector.

    Args:
        query: Of length 1.
        record: With its vectors.
        on: Whether to compare with the picture or with the caption.
    """
    vector = record.vector if on == "image" else record.text_vector
    return -1.0 if vector is None else float(query @ vector)
