"""Collection of a SQLite file: records, filters, exact search of vectors and words."""

import json
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from coca.core.errors import SearchError
from coca.search import words as text_words
from coca.search.filter_language import parse
from coca.search.filter_printers import to_sql
from coca.search.ranking import TypedQuery, ranked_hits
from coca.search.records import (
    CollectionInfo,
    Hit,
    Record,
    check_records,
    unit_rows,
)
from coca.search.search_options import MAX_RESULTS, Ranking, SearchOptions, Side, check_text
from coca.search.sqlite import blocks, tables
from coca.search.sqlite.compaction import compact, is_sparse
from coca.search.sqlite.database import DamageError, Database
from coca.search.sqlite.postings import NONE_RECENT, Postings, RecentWords
from coca.search.sqlite.scan import Scan
from coca.search.store import Change, Changes, changed_by, has_same_vectors, repr_of

_WRITE_S, _LEAST_ROWS, _WRITE_ROWS = 0.1, 64, 1_000
"""Time of a transaction, in seconds, for which other writers wait, and its number of records."""
_MASKS = 16
"""Number of filters whose rows are kept; each takes a byte a record."""
_KEPT_DELETIONS = 10_000
"""Writes for which deleted ids are known."""
T = TypeVar("T")
_COLUMN: Mapping[Side, str] = {"image": "image", "text": "caption"}


class SqliteCollection:
    """One collection of a SQLite file, searched exactly; thread-safe.

    Attributes:
        info: Description of the collection as it was opened.
    """

    def __init__(self, database: Database, info: CollectionInfo) -> None:
        """Open an existing collection; use `SqliteStore.open` instead."""
        self.info = info
        self._database, self._name = database, info.collection
        self._lock = threading.Lock()
        # More threads would wait for each other at every step: 32 have two thirds of the speed.
        self._turns = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._scan, self._version = Scan((), info.embed_dim), -1
        self._recent = NONE_RECENT
        # Time that the last write took a record, in seconds.
        self._row_s = _WRITE_S / _WRITE_ROWS
        # Rows that a filter keeps, and the version that these are of.
        self._masks: OrderedDict[str, tuple[int, Bool[np.ndarray, " N"]]] = OrderedDict()

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # also without records

    def __repr__(self) -> str:
        return repr_of(self)

    def describe(self) -> CollectionInfo:
        """Describe the collection, with the current `count`."""
        with self._reading() as (_, state):
            return state.info(self._name, self.info.uri, self.info.store)

    def upsert(self, records: Iterable[Record]) -> int:
        """Write records; see `Collection.upsert`. A transaction has at most 1,000 of them."""
        written = 0
        for batch in self._short(records):
            check_records(batch, self.info.embed_dim)
            with self._writing() as (connection, state):
                self._write(connection, state, {record.id: record for record in batch})
            written += len(batch)
        return written

    def delete(self, ids: Iterable[str]) -> int:
        """Delete records, and return how many there were; missing ids are ignored.

        Where many rows are free, records of the last rows move to them, at most two for each id.
        """
        deleted = 0
        for batch in self._short(dict.fromkeys(ids)):
            with self._writing() as (connection, state):
                count = self._write(connection, state, dict.fromkeys(batch), vectors=False)
            deleted += count
            if is_sparse(replace(state, records=state.records - count)):
                with self._writing() as (connection, state):
                    compact(connection, self._name, state, 2 * len(batch))
        return deleted

    def update(self, ids: Iterable[str], change: Change) -> dict[str, Record]:
        """Read, change and write records in one transaction; see `Collection.update`."""
        wanted, embed_dim = list(ids), self.info.embed_dim
        # Outside of the transaction first, so that other writers do not wait for it.
        with self._reading() as (connection, _):
            before = tables.read_seqs(connection, self._name, wanted)
            stored = self._stored(connection, wanted)
        left, differing = changed_by(change, stored, embed_dim)
        if not differing:
            return left
        with self._writing() as (connection, state):
            if tables.read_seqs(connection, self._name, wanted) != before:
                stored = self._stored(connection, wanted)
                left, differing = changed_by(change, stored, embed_dim)
            vectors = any(
                id not in stored or not has_same_vectors(record, stored[id])
                for id, record in differing.items()
                if record is not None
            )
            self._write(connection, state, differing, vectors=vectors)
        return left

    def _stored(self, connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Record]:
        found = tables.read_records(connection, self._name, ids, vectors=True)
        return {id: found[id][1] for id in ids if id in found}

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        wanted = list(ids)
        with self._reading() as (connection, _):
            return self._stored(connection, wanted)

    def hits(self, scores: Mapping[str, float]) -> list[Hit]:
        """Build hits with these scores, in this order; missing ids are skipped."""
        with self._reading() as (connection, _):
            found = tables.read_records(connection, self._name, scores, vectors=False)
        return [found[id][1].as_hit(score) for id, score in scores.items() if id in found]

    def count(self, filter: str = "") -> int:
        """Count the records that a filter keeps, hidden ones included."""
        with self._reading() as (connection, state):
            if not filter:
                return state.records
            condition, values = to_sql(parse(filter))
            sql = f'SELECT count(*) FROM "{self._name}" WHERE {condition}'
            return int(connection.execute(sql, values).fetchone()[0])

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of the records that a filter keeps, sorted, hidden ones included."""
        condition, values = to_sql(parse(filter))
        with self._reading() as (connection, _):
            # By the index of ids, the rows of a filter are read in no order: 150 ms for 100,000
            # tags instead of 25.
            order = "+id" if filter else "id"
            found = connection.execute(
                f'SELECT id FROM "{self._name}" WHERE {condition} ORDER BY {order}', values
            )
            return [id for (id,) in found]

    def pages(
        self, filter: str = "", *, vectors: bool = True, size: int = _WRITE_ROWS
    ) -> Iterator[list[Record]]:
        """Read all records that a filter keeps, sorted by id; see `Collection.pages`."""
        condition, values = to_sql(parse(filter))
        after = ""
        while True:
            with self._reading() as (connection, _):
                found = tables.select(
                    connection,
                    self._name,
                    f"r.id > ? AND ({condition}) ORDER BY r.id LIMIT ?",
                    [after, *values, size],
                    vectors=vectors,
                )
            if not found:
                return
            yield [record for _, record in found]
            after = found[-1][1].id

    def vectors(self, on: Side = "image") -> tuple[list[str], Float32[np.ndarray, "N E"]]:
        """Return the ids that are not hidden, sorted, and their vectors; 0 where there is none."""
        with self._reading() as (connection, state):
            found = connection.execute(
                f'SELECT r.id, v.{_COLUMN[on]} FROM "{self._name}" AS r '
                f'JOIN "{self._name}_vectors" AS v ON v.row = r.row '
                "WHERE NOT r.hidden ORDER BY r.id"
            ).fetchall()
        vectors = tables.stacked([vector for _, vector in found], state.embed_dim)
        return [id for id, _ in found], vectors

    def nearest(self, vectors: Float[np.ndarray, "Q E"], options: SearchOptions) -> list[list[Hit]]:
        """Find the records nearest to each vector, exactly; see `Collection.nearest`."""
        options.check_page(MAX_RESULTS)
        queries = unit_rows(vectors, self.info.embed_dim)
        with self._searching(options.filter) as view, self._turns:
            found = view.scan.nearest(queries, options, view, view.keep)
            pages = [
                list(zip(rows.tolist(), scores.tolist(), strict=True))[options.offset :]
                for rows, scores in found
            ]
            hits = view.hits([row for page in pages for row, _ in page])
        return options.keep_similar(
            [[hits[row].replace(score=score) for row, score in page] for page in pages]
        )

    def words(self, text: str, limit: int, filter: str = "") -> list[tuple[str, float]]:
        """Find the records that share a word with a text: ids with BM25, best first."""
        check_text(text)
        with self._searching(filter) as view:
            rows, scores = view.bm25(text_words.query_terms(text), Ranking())
            shown = view.scan.searched(view.keep)[rows]
            rows, scores = rows[shown], scores[shown]
            best = np.argsort(-scores, kind="stable")[:limit]
            hits = tables.read_hits(view.connection, self._name, rows[best].tolist())
        return [
            (hits[row].id, score)
            for row, score in zip(rows[best].tolist(), scores[best].tolist(), strict=True)
        ]

    def similar_words(self, word: str, limit: int = 64) -> list[Hit]:
        """Find records with words like a word; see `Collection.similar_words`."""
        with self._searching("") as view:
            terms = view.postings.similar_terms(word)
            shown = view.scan.searched()
            rows = [np.unique(view.postings.of(term)[0]) for term in terms]
            some = {row: None for found in rows for row in found[shown[found]][:limit].tolist()}
            hits = tables.read_hits(view.connection, self._name, list(some))
        return [hits[row] for row in some]

    def ranked(self, query: TypedQuery, ranking: Ranking, options: SearchOptions) -> list[Hit]:
        """Search by image, caption and words, exactly; see `Collection.ranked`."""
        options.check_page(MAX_RESULTS)
        check_text(query.text)
        query = replace(query, vector=unit_rows(query.vector[np.newaxis], self.info.embed_dim)[0])
        terms = text_words.query_terms(query.text)
        with self._searching(options.filter) as view, self._turns:
            found = view.scan.ranked(
                query,
                ranking,
                options,
                view,
                view.keep,
                bm25=view.bm25(terms, ranking),
                text=view.postings.text_matches(terms),
            )
            rows = found.rows[options.offset :].tolist()
            hits = view.hits(rows)
        floor = query.caption_floor(view.scan.captioned)
        parts = (found.image, found.caption, found.bm25, found.text)
        columns = np.stack(parts, axis=1)[options.offset :]
        return ranked_hits([hits[row] for row in rows], columns, ranking, floor)

    def labels_in(self, text: str) -> Set[str]:
        """Return the labels that a text names; see `Collection.labels_in`."""
        terms = text_words.query_terms(text)
        with self._searching("") as view:
            return view.postings.labels_in(terms)

    def saved_searches(self) -> dict[str, str]:
        """Read the saved searches by name."""
        with self._reading() as (connection, _):
            return tables.read_searches(connection, self._name)

    def save_search(self, name: str, search: str) -> None:
        """Store a saved search under a name; an empty one removes it."""
        with self._writing() as (connection, _):
            tables.write_search(connection, self._name, name, search)

    def changes(self, since: int = -1) -> Changes:
        """Return the current version, and the ids that were written since another version."""
        with self._reading() as (connection, state):
            if since < state.full_before:
                return Changes(state.seq, None)
            if since == state.seq:
                return Changes(state.seq, ())
            found = connection.execute(
                f'SELECT id FROM "{self._name}" WHERE seq > ? '
                f'UNION SELECT id FROM "{self._name}_deleted" WHERE seq > ?',
                (since, since),
            )
            return Changes(state.seq, tuple(id for (id,) in found))

    def flush(self) -> None:
        """Do nothing: what is written is searchable at once."""

    # Transactions.

    def _short(self, items: Iterable[T]) -> Iterator[list[T]]:
        """Split items to write into transactions, which are short while others write as well."""
        iterator = iter(items)
        while batch := list(islice(iterator, self._write_rows())):
            yield batch

    def _write_rows(self) -> int:
        if not self._database.is_shared():
            return _WRITE_ROWS
        return min(max(int(_WRITE_S / self._row_s), _LEAST_ROWS), _WRITE_ROWS)

    @contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection, tables.State]]:
        with self._database.reading() as connection:
            yield connection, self._state(connection)

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, tables.State]]:
        with self._database.writing() as connection:
            yield connection, self._state(connection)

    def _state(self, connection: sqlite3.Connection) -> tables.State:
        state = tables.state_of(connection, self._name)
        if state is None:
            raise SearchError(
                f"collection {self._name!r} was dropped from {self.info.uri}: open another"
            )
        if (state.fingerprint, state.embed_dim) != (self.info.fingerprint, self.info.embed_dim):
            raise SearchError(
                f"collection {self._name!r} of {self.info.uri} has the vectors of another model "
                f"now, {state.fingerprint} instead of {self.info.fingerprint}: open it again"
            )
        return state

    @contextmanager
    def _searching(self, filter: str) -> Iterator["_View"]:
        """Read one state of the file: its scan, and the rows that a filter keeps."""
        while True:
            with self._reading() as (connection, state):
                with self._lock:
                    # Another thread may have read a newer state, whose rows are not in this one.
                    if state.seq < self._version:
                        continue
                    if state.seq > self._version:
                        self._refresh(connection, state)
                    scan, recent = self._scan, self._recent
                keep = self._kept(connection, state, filter, len(scan)) if filter else None
                found = Postings(connection, self._name, len(scan), recent)
                yield _View(connection, self._name, state, scan, found, keep)
                return

    def _refresh(self, connection: sqlite3.Connection, state: tables.State) -> None:
        scan, recent, since = self._scan, self._recent, self._version
        if since < state.full_before:
            scan, recent, since = Scan((), state.embed_dim), RecentWords(), -1
        scan, recent = blocks.read(
            connection, self._name, scan, recent, since=since, rows=state.rows
        )
        if (known := scan.records) != state.records:
            raise DamageError(f"{state.records} records, and derived data of {known}")
        self._scan, self._recent, self._version = scan, recent, state.seq

    def _kept(
        self, connection: sqlite3.Connection, state: tables.State, filter: str, size: int
    ) -> Bool[np.ndarray, " N"]:
        """Return the rows that a filter keeps; only those written since the last time are read."""
        with self._lock:
            version, before = self._masks.get(filter, (-1, np.zeros(0, bool)))
        if version == state.seq:
            return before
        condition, values = to_sql(parse(filter))
        keep = np.zeros(size, bool)
        if version >= state.full_before:
            # A collection may have become shorter.
            keep[: len(before)] = before[:size]
            newer = f'SELECT row FROM "{self._name}" WHERE seq > ?'
            changed = [row for (row,) in connection.execute(newer, (version,))]
            keep[changed] = False
            condition = f"{tables.AMONG_ROWS} AND ({condition})"
            values = [json.dumps(changed), *values]
        found = connection.execute(f'SELECT row FROM "{self._name}" WHERE {condition}', values)
        keep[np.fromiter((row for (row,) in found), np.int64)] = True
        with self._lock:
            if state.seq == self._version:
                self._masks[filter] = state.seq, keep
                while len(self._masks) > _MASKS:
                    self._masks.popitem(last=False)
        return keep

    def _write(
        self,
        connection: sqlite3.Connection,
        state: tables.State,
        records: Mapping[str, Record | None],
        *,
        vectors: bool = True,
    ) -> int:
        """Write records by id, or delete them (None), and what is derived from them.

        Returns:
            The number of these ids that had a record.
        """
        began_s = time.monotonic()
        name, seq = self._name, state.seq + 1
        before = tables.read_records(connection, name, records, vectors=False)
        new = [id for id, record in records.items() if record and id not in before]
        free = tables.free_rows(connection, name, len(new), before=state.rows)
        end = state.rows + len(new) - len(free)
        row_of = {id: row for id, (row, _) in before.items()}
        row_of |= zip(new, (*free, *range(state.rows, end)), strict=True)
        changed = {row_of[id]: record for id, record in records.items() if id in row_of}
        written = {row: record for row, record in changed.items() if record}
        gone = {id: row for id, row in row_of.items() if row not in written}
        if not changed:
            return 0
        same = {row: record for row, record in before.values() if row in written}
        tables.write_rows(connection, name, written, same, seq=seq, vectors=vectors)
        forgotten = state.full_before
        if gone:
            tables.delete_rows(connection, name, gone, seq=seq)
            # Rows to use again stay at any age.
            forgotten = max(forgotten, seq - _KEPT_DELETIONS)
            sql = f'DELETE FROM "{name}_deleted" WHERE seq < ? AND row IS NULL'
            connection.execute(sql, (forgotten,))
        old = {row: text_words.texts_of(record) for row, record in before.values()}
        new_texts = {row: text_words.texts_of(record) for row, record in written.items()}
        words = {
            row: text_words.analyzed(new_texts.get(row, {}))
            for row in changed
            if row not in old or old[row] != new_texts.get(row)
        }
        length = sum(one.length for one in words.values())
        length -= sum(text_words.analyzed(old[row]).length for row in words if row in old)
        blocks.write(
            connection,
            name,
            changed,
            words,
            seq=seq,
            embed_dim=state.embed_dim,
            vectors=vectors,
        )
        connection.execute(
            "UPDATE collections SET seq = ?, rows = ?, records = records + ?, words = words + ?, "
            "full_before = ? WHERE name = ?",
            (seq, end, len(new) - len(gone), length, forgotten, name),
        )
        self._row_s = max(time.monotonic() - began_s, 1e-6) / len(records)
        return len(before)


@dataclass(frozen=True)
class _View:
    """One state of the file, and what is in memory of it; reads rows for the scan."""

    connection: sqlite3.Connection
    name: str
    state: tables.State
    scan: Scan
    postings: Postings
    keep: Bool[np.ndarray, " N"] | None
    """Mask of the rows that a filter keeps; None keeps all."""

    def vectors(self, rows: Int64[np.ndarray, " C"], on: Side) -> Float32[np.ndarray, "C E"]:
        """Read vectors of rows, in this order; zeros where there is none."""
        table = f"{self.name}_vectors"
        found = tables.read_column(self.connection, table, _COLUMN[on], rows.tolist())
        return tables.stacked(found, self.scan.embed_dim)

    def ids(self, rows: Int64[np.ndarray, " C"]) -> Sequence[str]:
        """Read the ids of rows, in this order."""
        return tables.read_column(self.connection, self.name, "id", rows.tolist())

    def bm25(
        self, terms: Sequence[tuple[str, str]], ranking: Ranking
    ) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
        """Compute the BM25 of all rows that share a term."""
        return self.postings.scores(
            terms,
            records=self.state.records,
            mean_length=self.state.words / max(self.state.records, 1),
            captions=ranking.captions,
        )

    def hits(self, rows: Sequence[int]) -> dict[int, Hit]:
        """Read the hits of rows, with the number of their copies."""
        found = tables.read_hits(self.connection, self.name, rows)
        if missing := found.keys() ^ set(rows):
            raise DamageError(f"row {min(missing)} of {self.name} is missing")
        copies = self.scan.copies(np.array(list(found), np.int64), self.keep).tolist()
        return {
            row: hit.replace(copies=count)
            for (row, hit), count in zip(found.items(), copies, strict=True)
        }
