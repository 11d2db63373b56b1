"""Rescoring: rank the first hits of a collection of smaller vectors by the whole vectors.

The whole vectors are in another collection of the same records, such as a folder on disk, from
which `coca migrate` filled the smaller one. Only the first hits are read from it.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Unpack

import numpy as np
from jaxtyping import Float, Float32

from coca.search.index_params.params import MAX_RESULTS
from coca.search.milvus.ann.pagination import sort_key
from coca.search.query.searchable import Searchable, cosine
from coca.search.records import Hit, Record, check_same_model
from coca.search.search_options import SearchKeywords, SearchOptions

DEPTH = 100
"""Default number of first hits that are rescored."""


class RescoredIndex:
    """Collection of smaller vectors whose first hits are ranked by another one's vectors.

    A hit that the other collection lacks keeps its score.

    Example:
        with Collection.open("http://host:19530") as small, Collection.open("coca.db") as whole:
            engine = SearchEngine(coca.load(), RescoredIndex(small, whole))
    """

    def __init__(self, index: Searchable, whole: Searchable, *, depth: int = DEPTH) -> None:
        """Combine both; neither is closed.

        Args:
            index: Collection that is searched, and that evaluates filters.
            whole: Collection of the same records with whole vectors.
            depth: Number of first hits that are rescored; more if a page ends after it.

        Raises:
            SearchError: They are of different models.
        """
        check_same_model(
            whole.info, fingerprint=index.info.fingerprint, embed_dim=index.info.embed_dim
        )
        self.info = index.info
        self._index, self._whole, self._depth = index, whole, depth

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        **options: Unpack[SearchKeywords],
    ) -> list[list[Hit]]:
        """Find the nearest records to each vector, nearest first; see `Collection.search`.

        Pages beyond `depth` are not parts of one list.
        """
        page = SearchOptions.of(k, **options)
        page.check_page(MAX_RESULTS)
        options["offset"], options["min_score"] = 0, None
        wanted = page.offset + k
        answers = self._index.search(vectors, max(self._depth, wanted), **options)
        ids = dict.fromkeys(hit.id for hits in answers for hit in hits)
        known = self._whole.get(ids)
        rescored = [
            self._rescored(np.asarray(query, np.float32), hits, known, page)[page.offset : wanted]
            for query, hits in zip(vectors, answers, strict=True)
        ]
        return page.keep_similar(rescored)

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids, with whole vectors where they are known."""
        found = self._index.get(ids)
        whole = self._whole.get(found)
        return {
            id: replace(record, vector=whole[id].vector, text_vector=whole[id].text_vector)
            if id in whole
            else record
            for id, record in found.items()
        }

    @property
    def supports_full_text(self) -> bool:
        """Whether `full_text_search` is available."""
        return self._index.supports_full_text

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """Rank records by BM25 of their captions, best first."""
        return self._index.full_text_search(text, k, filter=filter, offset=offset)

    def _rescored(
        self,
        query: Float32[np.ndarray, " E"],
        hits: list[Hit],
        known: dict[str, Record],
        page: SearchOptions,
    ) -> list[Hit]:
        scored = [
            replace(hit, score=cosine(query, known[hit.id], page.on)) if hit.id in known else hit
            for hit in hits
        ]
        return sorted(scored, key=lambda hit: sort_key(hit.score, hit.id))
