"""Rows of a Milvus collection: convert records, and write, read and search rows.

Rows are upserted, never inserted. Calls name the collection itself and not its alias, so that all
calls of a search are of one collection while another takes the alias.
"""

import math
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from coca.search import records
from coca.search.filter_printers import listed
from coca.search.filters import NOT_HIDDEN
from coca.search.milvus.connection import Connection
from coca.search.milvus.index_builds import METRIC
from coca.search.milvus.schema import BM25_K1, TEXT_WORDS, WORDS, Layout
from coca.search.records import ID, MAX_BYTES, Record, batches, from_plain
from coca.search.search_options import MAX_RESULTS, Side
from coca.search.words import matched_terms, repeated_terms

BATCH_ROWS = 1_000
"""Number of rows that are written or read by one call."""

_SETTLED_S = 10.0
"""Age at which `Bounded` consistency, whose limit is 5 s, includes a write."""

_NO_LETTER = re.compile(r"\W")

Row = dict[str, Any]

COLUMNS = (*records.HIT_FIELDS, records.ORIGIN)
"""Columns that `from_plain` reads."""


def is_in(column: str, values: Iterable[str]) -> str:
    """Return the filter of these values of a column."""
    return f"{column} in {listed(list(values))}"


def both(*filters: str) -> str:
    """Return the conjunction of filters; empty ones are left out."""
    filters = tuple(filter(None, filters))
    return filters[0] if len(filters) == 1 else " and ".join(f"({each})" for each in filters)


def indexed_word(term: str) -> str:
    """Write a term with letters, digits and `_` only, so that any tokenizer keeps it whole."""
    return _NO_LETTER.sub(lambda sign: f"_{ord(sign[0]):x}_", term)


def indexed_words(terms: Iterable[str]) -> str:
    """Join terms as a column of words has them; those that do not fit into it are left out."""
    joined = " ".join(map(indexed_word, terms))
    data = joined.encode()
    most = MAX_BYTES[records.CAPTION]
    return joined if len(data) <= most else data[:most].rpartition(b" ")[0].decode()


def to_row(record: Record, layout: Layout) -> Row:
    """Convert a record to a row."""
    # A vector column cannot be null. The image's vector is the placeholder, hidden by `has_text`; a
    # constant would create a cluster of equal points in the graph.
    text_vector = record.vector if record.text_vector is None else record.text_vector
    row = records.to_plain(record) | {
        records.CAPTION_SOURCE: record.caption_source,
        records.HAS_TEXT: record.text_vector is not None,
    }
    if layout.joined:
        row[records.VECTOR] = np.concatenate((record.vector, text_vector)).astype(np.float32)
    else:
        row[records.VECTOR] = np.asarray(record.vector, np.float32)
        row[records.TEXT_VECTOR] = np.asarray(text_vector, np.float32)
    if layout.words:
        row[WORDS] = indexed_words(repeated_terms(record))
        row[TEXT_WORDS] = indexed_words(matched_terms(record))
    return row


def to_record(row: Row, layout: Layout) -> Record:
    """Convert a row with vectors to a record."""
    text_vector = vector_of(row, layout, "text") if row[records.HAS_TEXT] else None
    return from_plain(row, vector_of(row, layout, "image"), text_vector)


def vector_of(row: Row, layout: Layout, side: Side) -> Float32[np.ndarray, " E"]:
    """Return the vector of an image or caption of a row."""
    stored = np.asarray(row[layout.column(side)], np.float32)
    return stored[layout.part(side)] if layout.joined else stored


class Rows:
    """Rows of a loaded collection; thread-safe."""

    def __init__(self, connection: Connection, layout: Layout) -> None:
        """Wrap an existing collection."""
        self.connection, self.layout = connection, layout
        self._upserted_s = self._deleted_s = -math.inf
        self._captioned = -math.inf, 0.0

    def upsert(self, rows: Sequence[Row]) -> None:
        """Write rows with distinct ids in one call; existing ids are replaced."""
        self._call("upsert", data=list(rows))
        self._upserted_s = time.monotonic()

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows in one call; missing ids are ignored."""
        # By a filter built here: the client does not quote ids.
        self._call("delete", filter=is_in(ID, ids))
        self._deleted_s = time.monotonic()

    @property
    def freshness(self) -> str:
        """Consistency level, by its Milvus name, that includes all writes of this client.

        Other clients' writes appear after the collection's staleness limit, 5 s by default.
        `Strong` waits for them as well, at 0.2 s a call.
        """
        now, consistency = time.monotonic(), self.layout.consistency
        if now < self._deleted_s + _SETTLED_S:
            # Milvus 2.3 does not report the time of a deletion, so `Session` cannot wait for it.
            return "Strong"
        recent = now < self._upserted_s + _SETTLED_S
        return "Session" if recent and consistency != "Strong" else consistency

    def get(
        self,
        ids: Iterable[str],
        columns: Sequence[str],
        *,
        filter: str = "",
        freshness: str = "Strong",
    ) -> dict[str, Row]:
        """Read the rows with these ids that a filter keeps; missing ids are skipped."""
        return {
            row[ID]: row
            for batch in batches(ids, BATCH_ROWS)
            for row in self.query(both(is_in(ID, batch), filter), columns, freshness)
        }

    def count(self, filter: str = "", *, freshness: str = "Strong") -> int:
        """Count the rows that a filter keeps."""
        return int(self.query(filter, ["count(*)"], freshness)[0]["count(*)"])

    def captioned(self) -> float:
        """Return the fraction of the rows that are not hidden with a caption by people.

        It is counted again after a write of this client, and once in `_SETTLED_S` for those of
        others.
        """
        counted_s, fraction = self._captioned
        now = time.monotonic()
        if now < counted_s + _SETTLED_S and counted_s > max(self._upserted_s, self._deleted_s):
            return fraction
        given = f'{records.HAS_TEXT} == true and {records.CAPTION_SOURCE} == "given"'
        rows = self.count(NOT_HIDDEN, freshness=self.freshness)
        counted = self.count(both(NOT_HIDDEN, given), freshness=self.freshness)
        self._captioned = now, counted / max(rows, 1)
        return self._captioned[1]

    def stored(self) -> int:
        """Count all rows; those of a collection that is not loaded with replaced ones."""
        state = self._call("get_load_state")["state"]
        if str(getattr(state, "name", state)) == "Loaded":
            return self.count()
        return int(self._call("get_collection_stats")["row_count"])

    def ids(self, filter: str) -> list[str]:
        """List the ids of all rows that a filter keeps, sorted."""
        # A server's iterator may miss the newest writes; the count first waits for them. That of
        # Lite scans the whole collection for each batch.
        if self.connection.capabilities.lite or self.count(filter) <= MAX_RESULTS:
            return sorted(row[ID] for row in self.query(filter or f'{ID} != ""', [ID], "Strong"))
        options = {"output_fields": [ID], "consistency_level": "Strong", "filter": filter}
        iterator = self._call("query_iterator", batch_size=MAX_RESULTS, **options)
        ids: list[str] = []
        with closing(iterator), self.connection.faults("read it through"):
            while rows := iterator.next():
                ids += [row[ID] for row in rows]
        return sorted(ids)

    def nearest(
        self,
        queries: Float[np.ndarray, "Q E"],
        side: Side,
        *,
        k: int,
        columns: Sequence[str],
        params: Mapping[str, Any],
        filter: str,
    ) -> list[list[Row]]:
        """Find the nearest rows to each query, nearest first, each with its `distance`."""
        if self.layout.joined:
            joined = np.zeros((len(queries), 2 * queries.shape[1]), np.float32)
            joined[:, self.layout.part(side)] = queries
            queries = joined
        return self._search(
            list(queries),
            anns_field=self.layout.column(side),
            limit=k,
            output_fields=list(columns),
            search_params={"metric_type": METRIC, "params": dict(params)},
            filter=filter,
        )

    def words(
        self,
        terms: Iterable[str],
        k: int,
        filter: str,
        *,
        column: str,
        ids: Collection[str] | None = None,
    ) -> dict[str, float]:
        """Find the rows with a term: ids with BM25 as Lucene computes it, best first.

        Args:
            terms: Terms of the query.
            k: Maximum number of rows.
            filter: Filter of the rows, in the language of Milvus.
            column: Column of sparse vectors.
            ids: Look for these rows only, which the filter keeps.
        """
        is_lite = self.connection.capabilities.lite
        if ids is not None:
            filter = is_in(ID, ids)
        (found,) = self._search(
            [indexed_words(terms)],
            anns_field=column,
            limit=MAX_RESULTS if is_lite else k,
            output_fields=[ID],
            search_params={"metric_type": "BM25", "params": {}},
            filter="" if is_lite else filter,
        )
        # Milvus multiplies by k1 + 1; Lite negates the scores as well.
        scores = {row[ID]: abs(row["distance"]) / (BM25_K1 + 1) for row in found}
        if not is_lite:
            return scores
        # Statistics of Lite are those of the filtered rows, so the filter is applied here.
        if ids is not None:
            return {id: score for id, score in scores.items() if id in ids}
        kept: dict[str, float] = {}
        for batch in batches(scores, BATCH_ROWS):
            rows = self.get(batch, [ID], filter=filter)
            kept |= {id: scores[id] for id in batch if id in rows}
            if len(kept) >= k:
                break
        return dict(islice(kept.items(), k))

    def _search(self, data: list[Any], **options: Any) -> list[list[Row]]:
        options |= {"data": data, "consistency_level": self.freshness}
        return [
            [
                dict(hit["entity"]) | {ID: hit[ID], "distance": float(hit["distance"])}
                for hit in hits
            ]
            for hits in self._call("search", **options)
        ]

    def ids_with_prefix(self, prefix: str, limit: int, filter: str) -> list[str]:
        """List the ids of at most `limit` rows with a term that begins with letters."""
        start = indexed_words([prefix])
        wanted = both(f'{WORDS} like "{start}%" or {WORDS} like "% {start}%"', filter)
        rows = self._call("query", filter=wanted, output_fields=[ID], limit=limit)
        return [row[ID] for row in rows]

    def query(self, filter: str, columns: Sequence[str], freshness: str) -> list[Row]:
        """Read the rows that a filter keeps, in no order, by one call."""
        options = {"output_fields": list(columns), "consistency_level": freshness}
        rows: list[Row] = self._call("query", filter=filter, **options)
        return rows

    def _call(self, name: str, **options: Any) -> Any:
        return self.connection.call(name, self.layout.own_name, **options)
