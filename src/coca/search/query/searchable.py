"""Protocols of a searchable collection, on Milvus or in memory."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from coca.search.milvus.collection import Collection
from coca.search.query.words import WordHits
from coca.search.records import CollectionInfo, Hit, Record
from coca.search.search_options import CaptionChoice, Ranking, SearchOptions


@runtime_checkable
class VectorSearch(Protocol):
    """Collection that is searched by vectors, such as a `Collection`."""

    @property
    def info(self) -> CollectionInfo:
        """Description of the collection."""
        ...

    def in_milvus(self) -> Collection:
        """Return the collection in Milvus, which a saved copy opens when it is first needed."""
        ...

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

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of all records that match a filter, in no order."""
        ...


@runtime_checkable
class Searchable(VectorSearch, Protocol):
    """Collection that is searched by image, caption and words as well, such as `CollectionCopy`."""

    def search_ranked(
        self, query: Float32[np.ndarray, "1 E"], text: str, ranking: Ranking, page: SearchOptions
    ) -> list[Hit]:
        """Search by image, caption and words; by image alone where no caption counts."""
        ...

    def words(self, text: str, captions: CaptionChoice = "given") -> WordHits:
        """Find the records whose caption shares a word with a text."""
        ...

    def records_of(self, hits: Iterable[Hit]) -> dict[str, Record]:
        """Return the records of hits, with captions and vectors; deleted ones are missing."""
        ...
