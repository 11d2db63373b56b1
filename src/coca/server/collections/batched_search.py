"""Micro-batching of vector search: queries of many clients share one call of Milvus."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from coca.search.milvus.collection import Collection
from coca.search.records import Hit, Origin, Record
from coca.search.search_options import SearchOptions
from coca.server.model.batching import Batcher
from coca.server.settings import ServerSettings


@dataclass(frozen=True)
class _Query:
    vector: Float[np.ndarray, " E"]
    options: SearchOptions

    @property
    def group(self) -> str:
        """Queries of the same group can share one call."""
        return repr(self.options)


class BatchedSearch:
    """A collection whose searches with equal options share calls.

    It is a `Searchable`, and a `CaptionStore` for BM25 in memory.

    A call of Milvus Lite with 32 queries takes a quarter of the processor time of 32 calls. A query
    never waits for others: while a call runs, further queries queue up.
    """

    def __init__(self, index: Collection, settings: ServerSettings) -> None:
        """Start the thread that searches."""
        self.info = index.info
        self._index = index
        self._batcher: Batcher[_Query, list[Hit] | Exception] = Batcher(
            self._run, max_batch=settings.max_batch, wait_s=0.0, queue_size=settings.queue_size
        )

    def search(
        self, vectors: Float[np.ndarray, "Q E"], k: int = 10, **options: Any
    ) -> list[list[Hit]]:
        """Find the nearest records to each vector; see `Collection.search`."""
        page = SearchOptions.of(k=k, **options)
        found = self._batcher.map([_Query(vector, page) for vector in vectors])
        for one in found:
            if isinstance(one, Exception):
                raise one
        return [one for one in found if not isinstance(one, Exception)]

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        return self._index.get(ids)

    @property
    def supports_full_text(self) -> bool:
        """Whether `full_text_search` is available."""
        return self._index.supports_full_text

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """Rank records by BM25 of their captions, best first."""
        return self._index.full_text_search(text, k, filter=filter, offset=offset)

    @property
    def sees_all_writes(self) -> bool:
        """Whether `writes` counts the writes of all clients."""
        return self._index.sees_all_writes

    @property
    def writes(self) -> int:
        """Number of rows written or deleted, as far as this process knows."""
        return self._index.writes

    def changed_since(self, writes: int) -> list[str] | None:
        """List the ids written since `writes` had this value; None if that is too long ago."""
        return self._index.changed_since(writes)

    def count(self, filter: str = "") -> int:
        """Count the records, or those that match a filter."""
        return self._index.count(filter)

    def origins(self, ids: Iterable[str] | None = None) -> Iterator[tuple[str, str, str, Origin]]:
        """Iterate over id, path, caption and origin of records, in no order."""
        return self._index.origins(ids)

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of all records that match a filter, in no order."""
        return self._index.ids(filter)

    def hits(self, scores: Mapping[str, float]) -> list[Hit]:
        """Build hits with these scores, in this order; missing ids are skipped."""
        return self._index.hits(scores)

    def close(self) -> None:
        """End the thread; the collection stays open."""
        self._batcher.close()

    def _run(self, queries: Sequence[_Query]) -> list[list[Hit] | Exception]:
        results: list[list[Hit] | Exception] = [[] for _ in queries]
        groups: dict[str, list[int]] = {}
        for row, query in enumerate(queries):
            groups.setdefault(query.group, []).append(row)
        for rows in groups.values():
            first = queries[rows[0]]
            try:
                vectors = np.stack([queries[row].vector for row in rows])
                hits = self._index.search(vectors, **vars(first.options))
            except Exception as error:
                # Only the queries of this group are at fault.
                for row in rows:
                    results[row] = error
                continue
            for row, found in zip(rows, hits, strict=True):
                results[row] = found
        return results
