"""Rows of a Milvus collection: convert records and hits, write, read and search.

Rows are upserted, never inserted. Each call has a timeout and names its columns. On Lite, writes
are serialized, and flushed before unflushed rows slow searches down.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from jaxtyping import Float

from coca.core.errors import SearchError, StorageError
from coca.search.filters import expanded, with_ids
from coca.search.milvus.connection import Connection
from coca.search.milvus.lite import MIN_FREE_TO_DELETE
from coca.search.records import (
    ALBUM,
    CAPTION,
    HAS_TEXT,
    HEIGHT,
    ID,
    METADATA,
    ORIGIN,
    PATH,
    TAGS,
    TEXT_VECTOR,
    TIME,
    VECTOR,
    WIDTH,
    Hit,
    Origin,
    Record,
    batches,
)

WRITE_ROWS = 1_000
FLUSH_ROWS = 5_000
"""Flush threshold: unflushed rows slow each search on Lite by about 45 microseconds a row."""
_SEARCHED_ROWS = 1_000
"""Flush threshold while searches run; without searches, so frequent flushes slow ingest down."""

_ROWS_OF_ONE_READ = 200_000
"""Maximum number of rows without vectors that are read at once; they take about 2 KB each."""

_SETTLED_S = 10.0
"""Age at which `Bounded` consistency, whose limit is 5 s, includes a write."""

METRIC = "IP"
"""Metric of vectors of length 1; every index type and every version of Milvus supports it."""

Row = dict[str, Any]

HIT_COLUMNS = (
    *(ID, PATH, CAPTION, WIDTH, HEIGHT, TIME),
    *(TAGS, ALBUM, METADATA, HAS_TEXT, ORIGIN),
)
"""Columns that `to_hit` reads."""
RECORD_COLUMNS = (*HIT_COLUMNS, VECTOR)
"""Columns that `to_record` reads, except the caption vector, which may be in another collection."""


def row_digest(row: Mapping[str, Any]) -> bytes:
    """Compute a 16-byte digest of the columns `HIT_COLUMNS`: all fields but the vectors."""
    fields = {name: row[name] for name in HIT_COLUMNS} | {TAGS: list(row[TAGS])}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).digest()[:16]


def to_row(record: Record) -> dict[str, Any]:
    """Convert a record to a row of Milvus, without its caption vector."""
    return {
        ID: record.id,
        VECTOR: np.asarray(record.vector, dtype=np.float32),
        PATH: record.path,
        CAPTION: record.caption,
        WIDTH: int(record.width),
        HEIGHT: int(record.height),
        TIME: int(record.time),
        TAGS: list(record.tags),
        ALBUM: record.album,
        METADATA: dict(record.metadata),
        HAS_TEXT: record.text_vector is not None,
        ORIGIN: record.origin.as_json(),
    }


def to_record(row: Mapping[str, Any], text_vector: Any = None) -> Record:
    """Convert a row of Milvus to a record."""
    return Record(
        id=row[ID],
        path=row[PATH],
        caption=row[CAPTION],
        width=int(row[WIDTH]),
        height=int(row[HEIGHT]),
        time=int(row[TIME]),
        tags=tuple(row[TAGS]),
        album=row[ALBUM],
        metadata=row[METADATA],
        vector=np.asarray(row[VECTOR], dtype=np.float32),
        text_vector=None if text_vector is None else np.asarray(text_vector, dtype=np.float32),
        origin=to_origin(row),
    )


def to_origin(row: Mapping[str, Any]) -> Origin:
    """Read the origin from a row of Milvus."""
    return Origin(**row[ORIGIN])


def belongs(caption: Mapping[str, Any], image_row: Mapping[str, Any] | None) -> bool:
    """Return whether a row of the caption collection matches the row of its image.

    It does not after a writer was killed between both writes, until the write is repeated.
    """
    return image_row is not None and image_row[HAS_TEXT] and image_row[CAPTION] == caption[CAPTION]


def to_hit(row: Mapping[str, Any], score: float) -> Hit:
    """Convert a row of Milvus to a hit."""
    origin = to_origin(row)
    return Hit(
        id=row[ID],
        score=score,
        path=row[PATH],
        caption=row[CAPTION],
        metadata=row[METADATA],
        width=int(row[WIDTH]),
        height=int(row[HEIGHT]),
        time=int(row[TIME]),
        tags=tuple(row[TAGS]),
        album=row[ALBUM],
        caption_source=origin.caption_source(row[CAPTION]),
        date_source=origin.date_source(int(row[TIME])),
    )


class Rows:
    """Existing, loaded collection of rows.

    Attributes:
        connection: Connection to Milvus.
        unflushed: Number of rows written since the last flush.
        journal: Ids written or deleted since it was opened; on Lite by all clients, as all are in
            this process.
    """

    def __init__(self, connection: Connection, name: str, consistency: str = "Bounded") -> None:
        """Wrap an existing collection."""
        self.connection = connection
        self.name = name
        self._consistency = consistency
        self.unflushed = 0
        self.journal = connection.journal(name)
        self._upserted_s = self._deleted_s = -math.inf
        self._searched = False

    def upsert(self, rows: Sequence[Row]) -> None:
        """Upsert rows with distinct ids; existing ids are replaced."""
        for start in range(0, len(rows), WRITE_ROWS):
            batch = list(rows[start : start + WRITE_ROWS])
            with self._writing("write to it", [row[ID] for row in batch]):
                self._client.upsert(self.name, batch, timeout=self._timeout_s)
                # Lite takes a sequence number for each row.
                self.journal.last_write += len(batch)
            self._upserted_s = time.monotonic()
            self._flush_if_due()

    def delete(self, ids: Iterable[str]) -> None:
        """Delete rows; missing ids are ignored."""
        for batch in batches(ids, WRITE_ROWS):
            with self._writing("delete from it", batch, MIN_FREE_TO_DELETE):
                # By a filter built here: the client does not quote ids.
                filter = with_ids(batch)
                deleted = self._client.delete(self.name, filter=filter, timeout=self._timeout_s)
                # Lite lists the deleted ids, and takes one sequence number for all of them.
                self.journal.last_write += int(isinstance(deleted, list))
            self._deleted_s = time.monotonic()
            self._flush_if_due()

    def flush(self) -> None:
        """Flush written rows into the index, where that is due.

        A server keeps new rows in a log on disk, searches them unindexed, and flushes by itself. A
        requested flush takes seconds, and creates small segments if there are few rows.
        """
        if self.unflushed >= (1 if self.connection.is_lite else FLUSH_ROWS):
            with self.connection.write_lock:
                if lease := self.connection.lease:
                    lease.check_space(self.name)
                self._flush()

    @property
    def freshness(self) -> str:
        """Consistency level, by its Milvus name, that includes all writes of this client.

        Other clients' writes appear after the collection's staleness limit, 5 s by default.
        `Strong` waits for them as well, at 0.2 s a call.
        """
        now = time.monotonic()
        if now < self._deleted_s + _SETTLED_S:
            # Milvus 2.3 does not report the time of a deletion, so `Session` cannot wait for it.
            return "Strong"
        recent = now < self._upserted_s + _SETTLED_S
        return "Session" if recent and self._consistency != "Strong" else self._consistency

    def get(
        self, ids: Iterable[str], columns: Sequence[str], *, freshness: str = "Strong"
    ) -> Iterator[Row]:
        """Read the rows with these ids, in no order; missing ids are skipped."""
        for batch in batches(ids, WRITE_ROWS):
            yield from self.query(with_ids(batch), columns, freshness=freshness)

    def query(
        self,
        filter: str,
        columns: Sequence[str],
        *,
        limit: int | None = None,
        freshness: str = "Strong",
    ) -> list[Row]:
        """Read rows that match a filter, at most `limit` of them."""
        with self.connection.faults("read from it", filter=filter):
            return self._client.query(
                self.name,
                filter=expanded(filter),
                output_fields=list(columns),
                timeout=self._timeout_s,
                consistency_level=freshness,
                **({} if limit is None else {"limit": limit}),
            )

    def count(self, filter: str = "", *, freshness: str = "Strong") -> int:
        """Count the rows that match a filter."""
        return int(self.query(filter, ["count(*)"], freshness=freshness)[0]["count(*)"])

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of all rows that match a filter, in no order."""
        if self.connection.is_lite:
            return [row[ID] for row in self.query(filter or f'{ID} != ""', [ID])]
        return [row[ID] for rows in self.read_through([ID], filter) for row in rows]

    def read_through(self, columns: Sequence[str], filter: str = "") -> Iterator[list[Row]]:
        """Iterate over all rows that match a filter, in batches and in no order.

        Do not write meanwhile.
        """
        if self.connection.is_lite:
            # Its iterator scans the whole collection for each batch: minutes for 100,000 rows. One
            # scan of all takes a third of the time of reading by ids, but all rows are in memory.
            if not {VECTOR, TEXT_VECTOR} & set(columns) and self.count() <= _ROWS_OF_ONE_READ:
                yield from batches(self.query(filter or f'{ID} != ""', columns), WRITE_ROWS)
                return
            for batch in batches(self.ids(filter), WRITE_ROWS):
                yield list(self.get(batch, columns))
            return
        # A server's iterator may miss the newest writes; a strong read first waits for them.
        self.count()
        with self.connection.faults("read it through", filter=filter):
            iterator = self._client.query_iterator(
                self.name,
                batch_size=WRITE_ROWS,
                filter=expanded(filter),
                output_fields=list(columns),
                timeout=self._timeout_s,
                consistency_level="Strong",
            )
            try:
                while rows := iterator.next():
                    yield list(rows)
            finally:
                iterator.close()

    def search(
        self,
        queries: Float[np.ndarray, "Q E"],
        *,
        column: str,
        columns: Sequence[str],
        k: int,
        params: Mapping[str, Any],
        filter: str = "",
    ) -> list[list[Row]]:
        """Find the nearest rows to each query, nearest first, each with its `distance`."""
        self._searched = True
        with self.connection.faults("search it", filter=filter):
            answers = self._client.search(
                self.name,
                data=list(queries),
                anns_field=column,
                filter=expanded(filter),
                limit=k,
                # Without a list of columns Lite returns every column, including vectors.
                output_fields=list(columns),
                search_params={"metric_type": METRIC, "params": dict(params)},
                timeout=self._timeout_s,
                consistency_level=self.freshness,
            )
        return [
            [
                dict(hit["entity"]) | {ID: hit[ID], "distance": float(hit["distance"])}
                for hit in hits
            ]
            for hits in answers
        ]

    @contextmanager
    def _writing(self, doing: str, ids: Sequence[str], needed: int | None = None) -> Iterator[None]:
        """Check the disk of Lite, serialize the write, and note its ids, or its failure."""
        with self.connection.write_lock:
            lease = self.connection.lease
            if lease is not None:
                lease.check_space(self.name, needed=needed)
            try:
                with self.connection.faults(doing):
                    yield
            except (SearchError, StorageError):
                if lease is not None:
                    lease.failed_writes.add(self.name)
                raise
            finally:
                # Also after a failure, since a part of the rows may be written.
                self.journal.note(ids)
                self.unflushed += len(ids)
            if lease is not None and self.name in lease.failed_writes:
                # After a part of a row, the log cannot be read on. A flush begins another log.
                self._flush()
                lease.failed_writes.discard(self.name)

    def _flush(self) -> None:
        lease = self.connection.lease
        try:
            with self.connection.faults("flush it"):
                self._client.flush(self.name, timeout=self._timeout_s)
        except (SearchError, StorageError):
            if lease is not None:
                lease.failed_flushes.add(self.name)
            raise
        self.unflushed, self._searched = 0, False

    def _flush_if_due(self) -> None:
        # A server flushes by itself, and limits the rate of flush requests.
        most = _SEARCHED_ROWS if self._searched else FLUSH_ROWS
        if self.connection.is_lite and self.unflushed >= most:
            # What is written is safe without. Deletions need less space than a flush.
            with suppress(StorageError):
                self.flush()

    @property
    def _client(self) -> Any:
        return self.connection.client

    @property
    def _timeout_s(self) -> float:
        return self.connection.timeout_s
