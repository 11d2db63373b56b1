"""A collection of pictures in Milvus: a folder on this machine or a server, by the same calls.

Vectors are stored with length 1 and compared by inner product, which every index type and every
kind of Milvus knows; the score is then the cosine.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from coca.core.errors import SearchError
from coca.search import records, schema
from coca.search.connection import Connection
from coca.search.records import CollectionInfo, Hit, Origin, Record

MAX_RESULTS = 16_384
"""Largest `offset + k`: the limit of a Milvus server, kept on Lite as well."""

_WRITE_ROWS = 1_000
_QUERY_ROWS = 256
_FLUSH_ROWS = 5_000
"""Unflushed rows make each search on Lite slower, by about 45 microseconds a row."""

_EXACT_ROWS = 2_000
"""On Lite a filter that leaves at most so many rows is answered exactly.

There the graph is walked past every row that the filter hides, so that a narrow filter loses
results: recall@10 of 0.56 at 1 % of 100,000 rows.
"""
_MIN_EF, _MAX_EF = 64, 8_192
_HIT_COLUMNS = [records.ID, records.PATH, records.CAPTION, records.METADATA]
_ALL_COLUMNS = [*_HIT_COLUMNS, records.ORIGIN, records.VECTOR]


class Index:
    """A collection of pictures with the vectors of one model.

    Made by `Index.open`. Threads may share it; on a folder of this machine their writes wait for
    each other. Closing it, or leaving its `with` block, lets the next process in.

    Attributes:
        info: What the collection said about itself when it was opened.
    """

    def __init__(self, connection: Connection, info: CollectionInfo) -> None:
        """Wrap an open collection; use `Index.open` instead."""
        self._connection = connection
        self.info = info
        self._unflushed = 0
        self._wrote = False

    @classmethod
    def open(
        cls,
        uri: str,
        collection: str = "pictures",
        *,
        token: str = "",
        embed_dim: int | None = None,
        fingerprint: str | None = None,
        model: str = "",
        create: bool = False,
        timeout_s: float = 60.0,
    ) -> "Index":
        """Open a collection, or make it.

        Args:
            uri: Path that ends in `.db`, or address of a server such as `http://host:19530`.
            collection: Name within that place: letters, digits and `_`.
            token: `"user:password"` or a key, for servers that want one.
            embed_dim: Numbers in a vector; needed to make a collection, otherwise checked if given.
            fingerprint: Of the model whose vectors it holds; as `embed_dim`.
            model: Name or folder of that model, kept for whoever opens the collection later.
            create: Make the collection if it is missing.
            timeout_s: Limit of every call in seconds.

        Raises:
            SearchError: It is missing, cannot be reached, or holds another model's vectors.
            MissingExtraError: The Milvus packages are not installed.
        """
        if not re.fullmatch(r"[A-Za-z_]\w{0,254}", collection, re.ASCII):
            raise SearchError(
                f"{collection!r} cannot name a collection: use letters, digits and _, "
                "and begin with a letter or _"
            )
        connection = Connection(uri, token=token, timeout_s=timeout_s, create=create)
        try:
            with connection.write_lock:
                if not schema.has_collection(connection, collection):
                    if not create:
                        raise SearchError(_missing(connection, collection))
                    if embed_dim is None or not fingerprint:
                        raise SearchError(
                            f"to make collection {collection!r} in {uri}, "
                            "name embed_dim and fingerprint of the model that will fill it"
                        )
                    schema.make_collection(
                        connection,
                        collection,
                        embed_dim=embed_dim,
                        fingerprint=fingerprint,
                        model=model,
                    )
                info = schema.describe_collection(connection, collection)
                records.check_same_model(
                    info,
                    fingerprint=fingerprint or info.fingerprint,
                    embed_dim=embed_dim or info.embed_dim,
                )
                schema.load_collection(connection, collection)
                index = cls(connection, info)
                index.info = index.describe()
        except BaseException:
            connection.close()
            raise
        return index

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def describe(self) -> CollectionInfo:
        """What the collection says about itself; `count` is as of now."""
        return replace(self.info, count=self.count())

    def upsert(self, rows: Iterable[Record]) -> int:
        """Write records; one whose id is there already is replaced.

        Written rows can be found at once and outlive a killed process; `flush` makes them fast to
        search as well.

        Returns:
            How many records were given.

        Raises:
            SearchError: A record cannot be stored; the message names it. Earlier records may
                have been written.
        """
        written = 0
        for batch in _batches(rows, _WRITE_ROWS):
            self._check(batch)
            # One row an id: servers keep both, or refuse the batch, if an id comes twice.
            unique = {record.id: records.to_row(record) for record in batch}
            with self._connection.write_lock, self._faults("write to it"):
                self._client.upsert(
                    self.info.collection, list(unique.values()), timeout=self._timeout_s
                )
            written += len(batch)
            self._wrote = True
            self._unflushed += len(batch)
            # A server flushes by itself, and limits how often it may be asked to.
            if self._connection.is_lite and self._unflushed >= _FLUSH_ROWS:
                self.flush()
        return written

    def delete(self, ids: Iterable[str]) -> None:
        """Remove records; ids that are not there are ignored."""
        for batch in _batches(ids, _WRITE_ROWS):
            with self._connection.write_lock, self._faults("delete from it"):
                self._client.delete(self.info.collection, ids=list(batch), timeout=self._timeout_s)
            self._wrote = True
            self._unflushed += len(batch)

    def flush(self) -> None:
        """Bring everything that was written to disk and into the index."""
        if self._unflushed:
            with self._connection.write_lock, self._faults("flush it"):
                self._client.flush(self.info.collection, timeout=self._timeout_s)
            self._unflushed = 0

    def close(self) -> None:
        """Let go of the server or folder; closing twice does nothing."""
        self._connection.close()

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """The records with these ids, as far as they are there."""
        found: dict[str, Record] = {}
        for batch in _batches(ids, _WRITE_ROWS):
            with self._faults("read from it"):
                rows = self._client.get(
                    self.info.collection,
                    ids=list(batch),
                    output_fields=_ALL_COLUMNS,
                    timeout=self._timeout_s,
                    consistency_level="Strong",
                )
            found.update({row[records.ID]: records.to_record(row) for row in rows})
        return found

    def count(self, filter: str = "") -> int:
        """How many records there are, or how many the filter leaves.

        Raises:
            SearchError: Milvus does not understand the filter.
        """
        return int(self._query(filter, ["count(*)"])[0]["count(*)"])

    def origins(self) -> Iterator[tuple[str, str, str, Origin]]:
        """Every record's id, path, caption and origin, in no order; write nothing meanwhile."""
        # An iterator of a server may miss the newest writes; a strong read first waits for them.
        self.count()
        with self._faults("read it through"):
            iterator = self._client.query_iterator(
                self.info.collection,
                batch_size=_WRITE_ROWS,
                output_fields=[records.ID, records.PATH, records.CAPTION, records.ORIGIN],
                timeout=self._timeout_s,
                consistency_level="Strong",
            )
            try:
                while rows := iterator.next():
                    for row in rows:
                        yield (
                            row[records.ID],
                            row[records.PATH],
                            row[records.CAPTION],
                            records.to_origin(row),
                        )
            finally:
                iterator.close()

    def search(
        self, vectors: Float[np.ndarray, "Q E"], k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[list[Hit]]:
        """The nearest records to each vector, nearest first.

        Args:
            vectors: One query a row, each of length 1.
            k: How many results a query; fewer come back if fewer are there.
            filter: Milvus expression that a record must fulfil; `where` builds one safely.
            offset: How many of the nearest to leave out, for paging.

        Raises:
            SearchError: Vectors of the wrong kind, `k` or `offset` out of range, or a filter that
                Milvus does not understand.
        """
        if k < 1 or offset < 0 or k + offset > MAX_RESULTS:
            raise SearchError(
                f"k={k} with offset={offset}: k is at least 1, offset at least 0, "
                f"and both together at most {MAX_RESULTS:,}"
            )
        names = [f"query {row}" for row in range(len(vectors))]
        queries = records.unit_rows(vectors, self.info.embed_dim, names)
        ef = max(_MIN_EF, 2 * (k + offset))
        if filter and len(queries):
            if self._connection.is_lite:
                rows = self._query(filter, _ALL_COLUMNS, limit=_EXACT_ROWS + 1)
                if len(rows) <= _EXACT_ROWS:
                    return _exact_search(queries, rows, k, offset)
                kept = _EXACT_ROWS
            else:
                kept = self.count(filter)
            # To meet as many rows that the filter keeps as an unfiltered search meets in all.
            ef = ef * self.count() // max(kept, 1)
        ef = max(min(ef, _MAX_EF), k + offset)
        return [
            [records.to_hit(row | row["entity"], float(row["distance"])) for row in answer]
            for batch in _batches(queries, _QUERY_ROWS)
            for answer in self._nearest(list(batch), k, filter, offset, ef)
        ]

    def _nearest(
        self, queries: Sequence[np.ndarray], k: int, filter: str, offset: int, ef: int
    ) -> list[list[dict[str, Any]]]:
        with self._faults("search it", filter=filter):
            return self._client.search(
                self.info.collection,
                data=queries,
                anns_field=records.VECTOR,
                filter=filter,
                limit=k,
                # Without a list of columns Lite would send everything, the vectors included.
                output_fields=_HIT_COLUMNS,
                search_params={"metric_type": "IP", "offset": offset, "params": {"ef": ef}},
                timeout=self._timeout_s,
                # Own writes are always seen; waiting for those of others costs 0.2 s a search.
                consistency_level="Session" if self._wrote else "Bounded",
            )

    def _query(
        self, filter: str, columns: list[str], *, limit: int | None = None
    ) -> list[dict[str, Any]]:
        with self._faults("read from it", filter=filter):
            return self._client.query(
                self.info.collection,
                filter=filter,
                output_fields=columns,
                timeout=self._timeout_s,
                consistency_level="Strong",
                **({} if limit is None else {"limit": limit}),
            )

    def _check(self, batch: Sequence[Record]) -> None:
        names = [f"record {record.id} ({record.path})" for record in batch]
        for name, record in zip(names, batch, strict=True):
            if fault := records.fault_of(record.path, record.caption, record.metadata):
                raise SearchError(f"{name} cannot be stored: {fault}")
            if record.vector.shape != (self.info.embed_dim,):
                raise SearchError(
                    f"{name} has {record.vector.size} numbers; "
                    f"this collection holds {self.info.embed_dim}"
                )
        records.unit_rows(np.stack([record.vector for record in batch]), self.info.embed_dim, names)

    @property
    def _client(self) -> Any:
        return self._connection.client

    @property
    def _timeout_s(self) -> float:
        return self._connection.timeout_s

    def _faults(self, doing: str, *, filter: str = "") -> AbstractContextManager[None]:
        return self._connection.faults(doing, filter=filter)


_T = TypeVar("_T")


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _exact_search(
    queries: Float[np.ndarray, "Q E"], rows: Sequence[dict[str, Any]], k: int, offset: int
) -> list[list[Hit]]:
    """The same answer as a search, from rows that hold their vectors."""
    if not rows:
        return [[] for _ in queries]
    vectors = np.asarray([row[records.VECTOR] for row in rows], dtype=np.float32)
    answers = []
    for scores in queries @ vectors.T:
        nearest = np.argsort(-scores, kind="stable")[offset : offset + k]
        answers.append([records.to_hit(rows[row], float(scores[row])) for row in nearest])
    return answers


def _missing(connection: Connection, collection: str) -> str:
    names = ", ".join(schema.list_collections(connection))
    return (
        f"there is no collection {collection!r} in {connection.uri} "
        f"({f'there are: {names}' if names else 'it is empty'}); `coca index FOLDER` makes one"
    )
