"""A collection of pictures in Milvus: a folder on this machine or a server, by the same calls.

Vectors are stored with length 1 and compared by inner product, which every index type and every
kind of Milvus knows; the score is then the cosine.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from coca.core.errors import SearchError
from coca.search import records, rows, schema
from coca.search.capabilities import Capabilities
from coca.search.collection import WRITE_ROWS, Collection, Row, batches
from coca.search.connection import Connection
from coca.search.nearest import nearest_rows, one_per_album
from coca.search.records import CollectionInfo, Hit, Origin, Record
from coca.search.schema import Layout

MAX_RESULTS = 16_384
"""Largest `offset + k`: the limit of a Milvus server, kept on Lite as well."""

Side: TypeAlias = Literal["image", "text"]
"""Which vector of a record is compared: that of the picture, or that of its caption."""


class Index:
    """A collection of pictures with the vectors of one model.

    Made by `Index.open`. Threads may share it; on a folder of this machine their writes wait for
    each other. Closing it, or leaving its `with` block, lets the next process in.

    Attributes:
        info: What the collection said about itself when it was opened.
    """

    def __init__(self, connection: Connection, info: CollectionInfo, layout: Layout) -> None:
        """Wrap an open collection; use `Index.open` instead."""
        self.info = info
        self._connection = connection
        self._layout = layout
        self._pictures = Collection(connection, layout.name)
        # Where one row holds both vectors, this is the same collection once more.
        self._texts = self._pictures if layout.shared else Collection(connection, layout.texts)

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
            collection: Name or alias within that place: letters, digits and `_`.
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
        schema.check_name(collection)
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
                info, layout = schema.describe_collection(connection, collection)
                records.check_same_model(
                    info,
                    fingerprint=fingerprint or info.fingerprint,
                    embed_dim=embed_dim or info.embed_dim,
                )
                schema.load_collection(connection, layout)
                index = cls(connection, info, layout)
                index.info = index.describe()
        except BaseException:
            connection.close()
            raise
        return index

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def capabilities(self) -> Capabilities:
        """What the Milvus at the other end can do."""
        return self._connection.capabilities

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
        for batch in batches(rows, WRITE_ROWS):
            records.check_records(batch, self.info.embed_dim)
            # One row an id: servers keep both, or refuse the batch, if an id comes twice.
            self._write(list({record.id: record for record in batch}.values()))
            written += len(batch)
        return written

    def delete(self, ids: Iterable[str]) -> None:
        """Remove records; ids that are not there are ignored."""
        for batch in batches(ids, WRITE_ROWS):
            if not self._layout.shared:
                self._texts.delete(batch)
            self._pictures.delete(batch)

    def flush(self) -> None:
        """Bring everything that was written to disk and into the index."""
        self._texts.flush()
        self._pictures.flush()

    def close(self) -> None:
        """Let go of the server or folder; closing twice does nothing."""
        self._connection.close()

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """The records with these ids, as far as they are there."""
        found: dict[str, Record] = {}
        for batch in batches(ids, WRITE_ROWS):
            read = list(self._pictures.get(batch, self._record_columns))
            found |= {record.id: record for record in self._to_records(read)}
        return found

    def ids(self, filter: str = "") -> list[str]:
        """The ids of all records that fulfil a filter, in no order.

        Raises:
            SearchError: Milvus does not understand the filter.
        """
        return self._pictures.ids(filter)

    def hits(self, scores: Mapping[str, float]) -> list[Hit]:
        """The records with these ids as hits with these scores, in this order, as far as there."""
        found = {row[records.ID]: row for row in self._pictures.get(scores, rows.HIT_COLUMNS)}
        return [rows.to_hit(found[id], score) for id, score in scores.items() if id in found]

    @property
    def writes(self) -> int:
        """How many rows were written or removed through this index so far."""
        return self._pictures.writes

    def changed_since(self, writes: int) -> list[str] | None:
        """The ids that these were, since `writes` was that number; None if it is too long ago."""
        return self._pictures.changed_since(writes)

    def count(self, filter: str = "") -> int:
        """How many records there are, or how many the filter leaves.

        Raises:
            SearchError: Milvus does not understand the filter.
        """
        return self._pictures.count(filter)

    def origins(self) -> Iterator[tuple[str, str, str, Origin]]:
        """Every record's id, path, caption and origin, in no order; write nothing meanwhile."""
        columns = [records.ID, records.PATH, records.CAPTION, records.ORIGIN]
        for batch in self._pictures.read_through(columns):
            for row in batch:
                yield (
                    row[records.ID],
                    row[records.PATH],
                    row[records.CAPTION],
                    rows.to_origin(row),
                )

    def read_through(self, filter: str = "") -> Iterator[list[Record]]:
        """All records that fulfil a filter, in batches and in no order; write nothing meanwhile.

        Raises:
            SearchError: Milvus does not understand the filter.
        """
        for batch in self._pictures.read_through(self._record_columns, filter):
            yield self._to_records(batch)

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        *,
        filter: str = "",
        offset: int = 0,
        on: Side = "image",
        one_each_album: bool = False,
    ) -> list[list[Hit]]:
        """The nearest records to each vector, nearest first.

        Args:
            vectors: One query a row, each of length 1.
            k: How many results a query; fewer come back if fewer are there.
            filter: Milvus expression that a record must fulfil; `where` builds one safely.
            offset: How many of the nearest to leave out, for paging.
            on: Whether pictures or captions are compared with the queries. Records without a
                `text_vector` are never among the nearest captions.
            one_each_album: Only the best picture of each album; those without an album count
                one by one.

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
        if not one_each_album:
            return self._nearest(queries, k, filter, offset, on)
        answers = []
        for query in queries[:, np.newaxis]:

            def ask(filter: str, limit: int, query: Float[np.ndarray, "1 E"] = query) -> list[Hit]:
                return self._nearest(query, min(limit, MAX_RESULTS), filter, 0, on)[0]

            answers.append(one_per_album(ask, k + offset, filter)[offset:])
        return answers

    def _nearest(
        self, queries: Float[np.ndarray, "Q E"], k: int, filter: str, offset: int, on: Side
    ) -> list[list[Hit]]:
        def ask(filter: str) -> list[list[Row]]:
            return nearest_rows(
                self._texts if on == "text" else self._pictures,
                queries,
                k,
                column=self._layout.text_column if on == "text" else records.VECTOR,
                columns=rows.HIT_COLUMNS,
                filter=filter,
                offset=offset,
            )

        answers = ask(filter)
        if on == "text" and any(not row[records.HAS_TEXT] for answer in answers for row in answer):
            # Stand-ins for missing captions came up; most collections have none to filter out.
            spoken = f"{records.HAS_TEXT} == true"
            answers = ask(f"({filter}) and {spoken}" if filter else spoken)
        return [[rows.to_hit(row, row["distance"]) for row in answer] for answer in answers]

    def _write(self, batch: Sequence[Record]) -> None:
        written = [rows.to_row(record) for record in batch]
        if self._layout.shared:
            for row, record in zip(written, batch, strict=True):
                # A column of vectors cannot be empty. The picture's own vector stands in, hidden by
                # `has_text`: a constant would make a knot of equal points in the graph.
                vector = record.vector if record.text_vector is None else record.text_vector
                row[records.TEXT_VECTOR] = np.asarray(vector, dtype=np.float32)
        else:
            # The captions first: a run that is killed in between finds the picture unwritten, and
            # writes both again.
            spoken = [
                row | {records.VECTOR: np.asarray(record.text_vector, dtype=np.float32)}
                for row, record in zip(written, batch, strict=True)
                if record.text_vector is not None
            ]
            self._texts.delete(record.id for record in batch if record.text_vector is None)
            self._texts.upsert(spoken)
        self._pictures.upsert(written)

    def _to_records(self, batch: Sequence[Row]) -> list[Record]:
        spoken = [row for row in batch if row[records.HAS_TEXT]]
        if not self._layout.shared:
            ids = [row[records.ID] for row in spoken]
            spoken = list(self._texts.get(ids, [records.ID, records.VECTOR]))
        vectors = {row[records.ID]: row[self._layout.text_column] for row in spoken}
        return [rows.to_record(row, vectors.get(row[records.ID])) for row in batch]

    @property
    def _record_columns(self) -> list[str]:
        extra = [records.TEXT_VECTOR] if self._layout.shared else []
        return [*rows.RECORD_COLUMNS, *extra]


def _missing(connection: Connection, collection: str) -> str:
    names = ", ".join(schema.list_collections(connection))
    return (
        f"there is no collection {collection!r} in {connection.uri} "
        f"({f'there are: {names}' if names else 'it is empty'}); `coca index FOLDER` makes one"
    )
