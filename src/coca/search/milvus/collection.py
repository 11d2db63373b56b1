"""Collection of records in Milvus: a server, a cluster, Zilliz Cloud, or Milvus Lite."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from functools import partial
from typing import TypeVar, get_args

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import SearchError
from coca.search.filter_language import parse
from coca.search.filter_printers import to_milvus
from coca.search.filters import NOT_HIDDEN
from coca.search.milvus import schema
from coca.search.milvus.ann import nearest, shown
from coca.search.milvus.connection import Connection
from coca.search.milvus.index_builds import IndexState, index_state
from coca.search.milvus.ranked import RankedSearch
from coca.search.milvus.rows import (
    BATCH_ROWS,
    COLUMNS,
    Rows,
    both,
    indexed_word,
    is_in,
    to_record,
    to_row,
    vector_of,
)
from coca.search.milvus.schema import TEXT_BM25, TEXT_WORDS
from coca.search.milvus.turns import Turn, TurnLostError, last_write, take_turn
from coca.search.milvus.vector_index import VectorIndex
from coca.search.ranking import TypedQuery, ranked_hits
from coca.search.records import (
    CONTENT,
    HAS_TEXT,
    ID,
    PERCEPTUAL_HASH,
    CollectionInfo,
    Hit,
    Record,
    batches,
    check_records,
    check_same_model,
    from_plain,
    sort_key,
    unit_rows,
)
from coca.search.search_options import Ranking, SearchOptions, Side, check_text
from coca.search.spelling import one_error_away
from coca.search.store import Change, Changes, changed_by, repr_of
from coca.search.words import GENERATED, MARKS, NAMED, label_keys, query_terms, search_terms, stems

_KEPT_CHANGES = 10_000
"""Number of the last written ids that `changes` can name."""
_FLUSH_ROWS = 5_000

_T = TypeVar("_T")


class MilvusCollection:
    """Collection of Milvus; see `coca.search.store.Collection`. `MilvusStore` opens it.

    Writes of this client are found by its next call; those of other clients after the staleness
    limit of the collection, some seconds by default. Clients write in turns; see
    `coca.search.milvus.turns`. All methods raise a `SearchError` if another
    collection has taken the name, with the vectors of another model.

    Attributes:
        info: Description of the collection as it was opened.
    """

    def __init__(self, connection: Connection, collection: str) -> None:
        """Open an existing collection, and load it for searches."""
        self._connection, self._lock = connection, threading.Lock()
        self.info, layout = schema.describe_collection(connection, collection)
        self._rows = Rows(connection, schema.load_collection(connection, layout))
        self.info = replace(self.info, count=self._rows.count())
        self._unflushed = 0
        self._written: deque[tuple[int, str]] = deque(maxlen=_KEPT_CHANGES)
        # Number of the last known write, and that from which on all written ids are known.
        self._version = self._known_since = last_write(connection, layout.own_name)

    def _current(self) -> Rows:
        """Return the rows of the collection that has the name now.

        Raises:
            SearchError: A collection of another model has taken the name.
        """
        info, layout = schema.describe_collection(self._connection, self.info.collection)
        check_same_model(info, fingerprint=self.info.fingerprint, embed_dim=self.info.embed_dim)
        if layout.own_name != self._rows.layout.own_name:
            taking = Rows(self._connection, schema.load_collection(self._connection, layout))
            # A strong read waits for what was written last; then other reads find it, too.
            taking.count()
            number = last_write(self._connection, layout.own_name)
            with self._lock:
                if layout.own_name != self._rows.layout.own_name:
                    self._rows = taking
                    self._version = self._known_since = number
        return self._rows

    def _read(self, read: Callable[[Rows], _T]) -> _T:
        """Read rows of one collection; again if it is missing.

        Another took the name, or Milvus 2.3 did not find it while its properties changed.
        """
        try:
            return read(self._current())
        except SearchError as error:
            if not self._connection.is_missing(error):
                raise
            return read(self._current())

    def _write(self, write: Callable[[Rows, Turn], _T]) -> _T:
        """Write rows in a turn of this client, of the collection that has the name then."""
        is_repeated = False
        while True:
            rows = self._current()
            try:
                with take_turn(self._connection, rows.layout.own_name) as turn:
                    # Another collection takes the name in a turn, too.
                    if self._current() is rows:
                        return write(rows, turn)
            except TurnLostError:
                continue
            except SearchError as error:
                if not self._connection.is_missing(error):
                    raise
                if self._current() is rows:
                    # Milvus 2.3 at times does not find a collection whose properties change.
                    if is_repeated:
                        raise
                    is_repeated = True

    @property
    def index_type(self) -> VectorIndex:
        """Index of the vectors."""
        return self._rows.layout.index

    @property
    def has_words(self) -> bool:
        """Whether Milvus computes BM25; otherwise rankings have no words."""
        return self._rows.layout.words

    def index_states(self) -> dict[Side, IndexState]:
        """Return the build state of the index of images and of captions."""
        layout, sides = self._current().layout, get_args(Side)
        columns = ((side, layout.column(side)) for side in sides)
        states = {
            side: index_state(self._connection, layout.own_name, column) for side, column in columns
        }
        return {side: state for side, state in states.items() if state is not None}

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # also without records

    def __repr__(self) -> str:
        return repr_of(self)

    def describe(self) -> CollectionInfo:
        """Describe the collection, with the current `count`."""
        info = schema.describe_collection(self._connection, self.info.collection)[0]
        return replace(info, count=self._recent_count())

    def flush(self) -> None:
        """Flush written rows to disk, where Milvus builds their index, if they are many.

        A server searches new rows without an index, and flushes by itself. A requested flush takes
        seconds, and makes small segments of few rows.
        """
        if self._unflushed >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._connection.call("flush", self.info.collection)
        self._unflushed = 0

    # Write.

    def upsert(self, records: Iterable[Record]) -> int:
        """Write records; see `Collection.upsert`."""
        written = 0
        for batch in batches(records, BATCH_ROWS):
            check_records(batch, self.info.embed_dim)
            # One row an id: with duplicate ids, servers keep both rows or refuse the batch.
            distinct = {record.id: record for record in batch}
            self._write(partial(self._replace, distinct))
            written += len(batch)
        return written

    def delete(self, ids: Iterable[str]) -> int:
        """Delete records, and return how many there were; missing ids are ignored."""
        deleted = 0
        for batch in batches(ids, BATCH_ROWS):
            if stored := list(self._read(partial(Rows.get, ids=batch, columns=[ID]))):
                self._write(partial(self._replace, dict.fromkeys(stored)))
            deleted += len(stored)
        return deleted

    def update(self, ids: Iterable[str], change: Change) -> dict[str, Record]:
        """Read, change and write records in a turn of this client; see `Collection.update`."""
        wanted, embed_dim = list(dict.fromkeys(ids)), self.info.embed_dim

        def before(rows: Rows) -> tuple[Rows, int, dict[str, Record]]:
            number = last_write(self._connection, rows.layout.own_name)
            return rows, number, _records(rows, wanted, vectors=True)

        # Before the turn, so that other writers do not wait for it: a strong read takes 0.2 s.
        read, number, stored = self._read(before)
        left, differing = changed_by(change, stored, embed_dim)
        if not differing:
            return left

        def write(rows: Rows, turn: Turn) -> dict[str, Record]:
            kept, written = left, differing
            if rows is not read or turn.number != number + 1:
                kept, written = changed_by(change, _records(rows, wanted, vectors=True), embed_dim)
            self._replace(written, rows, turn)
            return kept

        return self._write(write)

    def _replace(self, records: Mapping[str, Record | None], rows: Rows, turn: Turn) -> None:
        """Write records by id, or delete them (None), and note their ids for `changes`."""
        new = [to_row(record, rows.layout) for record in records.values() if record is not None]
        gone = [id for id, record in records.items() if record is None]
        turn.check()
        try:
            for batch in batches(new, BATCH_ROWS):
                rows.upsert(batch)
            for ids in batches(gone, BATCH_ROWS):
                rows.delete(ids)
        finally:
            # Also after a failure, since a part of the rows may be written.
            self._note(records, turn.number)

    def _note(self, ids: Iterable[str], number: int) -> None:
        with self._lock:
            if number > self._version + 1:
                self._known_since = number - 1
            self._version = number
            for id in ids:
                if len(self._written) == _KEPT_CHANGES:
                    self._known_since = max(self._known_since, self._written[0][0])
                self._written.append((number, id))
                self._unflushed += 1

    def saved_searches(self) -> dict[str, str]:
        """Read the saved searches by name."""
        return self._read(
            lambda rows: schema.saved_searches(self._connection, rows.layout.own_name)
        )

    def save_search(self, name: str, search: str) -> None:
        """Store a saved search under a name; an empty one removes it."""
        key = schema.SEARCH + name
        self._read(lambda rows: schema.keep_property(self._connection, rows.layout, key, search))

    def changes(self, since: int = -1) -> Changes:
        """Return the number of the last write, and the ids written since another one.

        The ids are known if only this object has written.
        """
        number = last_write(self._connection, self._current().layout.own_name)
        with self._lock:
            # It is lower while this client writes.
            if number > self._version:
                self._version = self._known_since = number
            if since < self._known_since:
                return Changes(self._version, None)
            ids = (id for version, id in self._written if version > since)
            return Changes(self._version, tuple(dict.fromkeys(ids)))

    def _recent_count(self) -> int:
        """Count the records without waiting for writes of other clients, at 0.2 s a call."""
        return self._read(lambda rows: rows.count(freshness=rows.freshness))

    # Read.

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        wanted = dict.fromkeys(ids)
        return self._read(lambda rows: _records(rows, wanted, vectors=True))

    def hits(self, scores: Mapping[str, float]) -> list[Hit]:
        """Build hits with these scores, in this order; missing ids are skipped."""
        by_id = self._read(lambda rows: _hits(rows, scores, ""))
        return [by_id[id].replace(score=scores[id]) for id in scores if id in by_id]

    def count(self, filter: str = "") -> int:
        """Count the records that a filter keeps, hidden ones included."""
        wanted = expression(filter)
        return self._read(lambda rows: rows.count(wanted))

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of the records that a filter keeps, sorted, hidden ones included."""
        wanted = expression(filter)
        return self._read(lambda rows: rows.ids(wanted))

    def pages(
        self, filter: str = "", *, vectors: bool = True, size: int = BATCH_ROWS
    ) -> Iterator[list[Record]]:
        """Read all records that a filter keeps, sorted by id, in pages of at most `size`."""
        for batch in batches(self.ids(filter), size):
            stored = self._read(partial(_records, ids=batch, vectors=vectors))
            # A record may have been deleted since its id was read.
            if page := [stored[id] for id in batch if id in stored]:
                yield page

    def vectors(self, on: Side = "image") -> tuple[list[str], Float32[np.ndarray, "N E"]]:
        """Return the ids that are not hidden, sorted, and their vectors; 0 where there is none."""
        return self._read(lambda rows: _vectors(rows, on))

    # Search.

    def nearest(self, vectors: Float[np.ndarray, "Q E"], options: SearchOptions) -> list[list[Hit]]:
        """Find the nearest records to each vector; see `Collection.nearest`."""
        options.check_page(self.index_type.max_results)
        queries = unit_rows(vectors, self.info.embed_dim)
        asked = options.replace(filter=expression(options.filter))

        def search(rows: Rows) -> list[list[Hit]]:
            pages = nearest(rows, queries, asked)
            by_id = _hits(rows, [found.id for page in pages for found in page], asked.filter)
            return [
                [by_id[one.id].replace(score=one.score) for one in page if one.id in by_id]
                for page in pages
            ]

        return options.keep_similar(self._read(search))

    def words(self, text: str, limit: int, filter: str = "") -> list[tuple[str, float]]:
        """Find the records that share a word with a text: ids with BM25, best first.

        None are found where Milvus has no BM25 (before 2.5).
        """
        check_text(text)
        terms = search_terms(query_terms(text), Ranking().captions)
        wanted = shown(expression(filter))
        if not self.has_words:
            return []
        found = self._read(lambda rows: rows.words(terms, limit, wanted, column=schema.BM25))
        return sorted(found.items(), key=lambda one: sort_key(one[1], one[0]))

    def similar_words(self, word: str, limit: int = 64) -> list[Hit]:
        """Find records with words like a word; see `Collection.similar_words`.

        None are found where Milvus has no BM25 (before 2.5).
        """
        if not self.has_words:
            return []
        near = sorted(set(stems([word, *one_error_away(word)])))
        marked = [mark + term for mark in ("", MARKS[GENERATED]) for term in near]

        def search(rows: Rows) -> list[Hit]:
            # The rare ones are first: they may be names.
            ids = dict(rows.words(marked, 4 * limit, shown(), column=schema.BM25))
            ids |= dict.fromkeys(rows.ids_with_prefix(word, limit, shown()), 0.0)
            return list(_hits(rows, ids, "").values())

        return self._read(search)

    def ranked(self, query: TypedQuery, ranking: Ranking, options: SearchOptions) -> list[Hit]:
        """Search by image, caption and words; see `Collection.ranked`."""
        options.check_page(self.index_type.max_results)
        check_text(query.text)
        query = replace(query, vector=unit_rows(query.vector[np.newaxis], self.info.embed_dim)[0])
        asked = options.replace(filter=expression(options.filter))

        def search(rows: Rows) -> list[Hit]:
            search = RankedSearch(rows, query, ranking, asked)
            page = search.page()
            by_id = _hits(rows, [one.found.id for one in page], asked.filter)
            there = [one for one in page if one.found.id in by_id]
            columns = np.array([one.columns() for one in there], np.float64).reshape(-1, 4)
            found = [by_id[one.found.id] for one in there]
            return ranked_hits(found, columns, ranking, search.floor)

        return self._read(search)

    def labels_in(self, text: str) -> Set[str]:
        """Return the labels that a text names; see `Collection.labels_in`."""
        keys = {indexed_word(key): key for key in label_keys(query_terms(text), (NAMED,))}

        def search(rows: Rows) -> Set[str]:
            if not keys or not rows.layout.words:
                return set()
            ids = rows.words(keys.values(), BATCH_ROWS // 10, NOT_HIDDEN, column=TEXT_BM25)
            found = rows.get(ids, [ID, TEXT_WORDS], freshness=rows.freshness).values()
            written = {word for row in found for word in row[TEXT_WORDS].split(" ")}
            return {key for word, key in keys.items() if word in written}

        return self._read(search)


def expression(filter: str) -> str:
    """Translate a filter to the language of Milvus."""
    return to_milvus(parse(filter))


def _records(rows: Rows, ids: Iterable[str], *, vectors: bool) -> dict[str, Record]:
    if not vectors:
        return {id: from_plain(row) for id, row in rows.get(ids, COLUMNS).items()}
    stored = rows.get(ids, [*COLUMNS, PERCEPTUAL_HASH, HAS_TEXT, *rows.layout.columns])
    return {id: to_record(row, rows.layout) for id, row in stored.items()}


def _hits(rows: Rows, ids: Iterable[str], filter: str) -> dict[str, Hit]:
    """Read hits by id, with the number of their copies that a filter keeps."""
    stored = rows.get(dict.fromkeys(ids), COLUMNS, freshness=rows.freshness)
    copies: Counter[str] = Counter()
    contents = dict.fromkeys(row[CONTENT] for row in stored.values() if row[CONTENT])
    for batch in batches(contents, BATCH_ROWS):
        same = both(shown(filter), is_in(CONTENT, batch))
        copies.update(row[CONTENT] for row in rows.query(same, [CONTENT], rows.freshness))
    return {
        id: from_plain(row).as_hit().replace(copies=max(copies[row[CONTENT]], 1))
        for id, row in stored.items()
    }


def _vectors(rows: Rows, on: Side) -> tuple[list[str], Float32[np.ndarray, "N E"]]:
    layout, ids = rows.layout, rows.ids(shown())
    stacked = np.zeros((len(ids), layout.embed_dim), np.float32)
    columns = [ID, HAS_TEXT, layout.column(on)]
    for start in range(0, len(ids), BATCH_ROWS):
        batch = ids[start : start + BATCH_ROWS]
        stored = rows.get(batch, columns)
        for number, id in enumerate(batch, start):
            if id in stored and (on == "image" or stored[id][HAS_TEXT]):
                stacked[number] = vector_of(stored[id], layout, on)
    return ids, stacked
