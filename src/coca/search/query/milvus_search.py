"""Search of a collection by vectors in Milvus, and by words in memory."""

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from coca.core.progress import ProgressMaker, silent
from coca.search.milvus.collection import Collection
from coca.search.query.collection_copy import CollectionCopy
from coca.search.query.ranking import search_ranked
from coca.search.query.searchable import Searchable, VectorSearch
from coca.search.query.words import WordHits
from coca.search.records import CollectionInfo, Hit, Record
from coca.search.search_options import CaptionChoice, Ranking, SearchOptions


class MilvusSearch:
    """Search of a collection on a server, with the words of its captions in memory.

    Thread-safe. The words are read when they are first needed.
    """

    def __init__(self, collection: Collection) -> None:
        """Search `collection`, which is not closed."""
        self._collection = collection
        self._copy: CollectionCopy | None = None
        self._lock = threading.Lock()

    @property
    def info(self) -> CollectionInfo:
        """Description of the collection."""
        return self._collection.info

    def in_milvus(self) -> Collection:
        """Return the collection in Milvus."""
        return self._collection

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        **options: Any,
    ) -> list[list[Hit]]:
        """Find the nearest records to each vector, nearest first; see `Collection.search`."""
        return self._collection.search(vectors, k, **options)

    def search_ranked(
        self, query: Float32[np.ndarray, "1 E"], text: str, ranking: Ranking, page: SearchOptions
    ) -> list[Hit]:
        """Search by image, caption and words; see `CollectionCopy.search_ranked`."""
        copy = self._words()
        if not copy.has_words(ranking.captions):
            return self.search(query, **vars(page))[0]
        return search_ranked(self, copy.words(text, ranking.captions), query, ranking, page)

    def words(self, text: str, captions: CaptionChoice = "given") -> WordHits:
        """Find the records whose caption shares a word with a text."""
        return self._words().words(text, captions)

    def records_of(self, hits: Iterable[Hit]) -> dict[str, Record]:
        """Return the records of hits; those that were deleted meanwhile are missing."""
        return self.get({hit.id for hit in hits})

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        return self._collection.get(ids)

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of all records that match a filter, in no order."""
        return self._collection.ids(filter)

    def _words(self) -> CollectionCopy:
        with self._lock:
            if self._copy is None:
                self._copy = CollectionCopy(self._collection, vectors=False)
            return self._copy


def searchable(collection: VectorSearch, progress: ProgressMaker = silent) -> Searchable:
    """Return the search of a collection by vectors, captions and words.

    It is that of a copy in memory on Milvus Lite, and that of Milvus on a server.
    """
    if isinstance(collection, Searchable):
        return collection
    source = collection.in_milvus()
    if source.lease is None:
        return MilvusSearch(source)
    return CollectionCopy(source, progress=progress)
