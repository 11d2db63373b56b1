"""Protocol of a searchable collection, on Milvus or in memory."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from coca.search.records import CollectionInfo, Hit, Record


@runtime_checkable
class FullTextSearch(Protocol):
    """Full-text search over captions."""

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """Rank records by BM25 of their captions, best first."""
        ...


@runtime_checkable
class Searchable(FullTextSearch, Protocol):
    """Searchable collection: a `Collection`, or an `InMemoryIndex` of its vectors."""

    info: CollectionInfo

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        **options: Any,
    ) -> list[list[Hit]]:
        """Find the nearest records to each vector, nearest first; see `Collection.search`."""
        ...

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        ...

    @property
    def supports_full_text(self) -> bool:
        """Whether `full_text_search` is available."""
        ...
