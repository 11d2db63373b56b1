"""Collection of images and their captions in Milvus: the same interface for Lite and for servers.

Vectors have length 1 and are compared by inner product, which every index type and every Milvus
version supports. The score is therefore the cosine.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from coca.core.errors import ArgumentError, SearchError
from coca.core.progress import ProgressMaker, silent
from coca.search import records
from coca.search.milvus import catalog, schema
from coca.search.milvus.ann import Vectors, ann_search, grouped_ann_search
from coca.search.milvus.connection import Capabilities, Connection
from coca.search.milvus.lite import Lease
from coca.search.milvus.rows import (
    HIT_COLUMNS,
    RECORD_COLUMNS,
    WRITE_ROWS,
    Row,
    Rows,
    belongs,
    row_digest,
    to_hit,
    to_origin,
    to_record,
    to_row,
)
from coca.search.milvus.vector_index import VectorIndex
from coca.search.records import CollectionInfo, Hit, Origin, Record, batches
from coca.search.search_options import MAX_RESULTS, SearchOptions, Side

__all__ = ["MAX_RESULTS", "Collection"]

_BETWEEN_S = 2.0
"""Maximum time between a writer's caption and image of one record, in seconds."""


class Collection:
    """Client of one collection of images with the vectors of one model.

    Create it by `Collection.open`. It is thread-safe; on Milvus Lite, writes are serialized.
    Closing it, or leaving its `with` block, releases the lock for the next process.

    Attributes:
        info: Description of the collection when it was opened.
    """

    def __init__(
        self,
        connection: Connection,
        info: CollectionInfo,
        layout: schema.Layout,
        *,
        opened_as: str = "",
    ) -> None:
        """Wrap an open collection; use `Collection.open` instead."""
        self.info, self._connection, self._opened_as = info, connection, opened_as
        self._layout, self._captions_indexed = layout, False
        self._images = Rows(connection, layout.name, layout.consistency)
        # The same collection, if one row has both vectors.
        self._texts = self._images
        if not layout.shared:
            self._texts = Rows(connection, layout.texts, layout.consistency)

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
        staged: bool = False,
        settings: schema.CollectionSettings | None = None,
        timeout_s: float = 60.0,
    ) -> "Collection":
        """Open a collection, or create it.

        Args:
            uri: Path that ends in `.db` (Milvus Lite), or URI of a server: `http://host:19530`.
            collection: Name or alias: letters, digits and `_`.
            token: `"user:password"` or an API key, for servers with authentication.
            embed_dim: Vector size; required to create a collection, otherwise checked if given.
            fingerprint: Fingerprint of the model of its vectors; as `embed_dim`.
            model: Name or folder of that model, stored with the collection.
            create: Create the collection if it is missing.
            staged: Open the collection created for this name and `fingerprint`, even if the alias
                does not point to it yet; `point_alias` switches the alias.
            settings: Configuration of a new collection.
            timeout_s: Timeout of each call, in seconds.

        Raises:
            SearchError: It is missing, unreachable, or has another model's vectors.
            MissingExtraError: The Milvus packages are not installed.
        """
        schema.check_name(collection)
        connection = Connection(uri, token=token, timeout_s=timeout_s, create=create)
        try:
            with connection.write_lock:
                own = (
                    catalog.resolve_staged(connection, collection, fingerprint or "")
                    if staged
                    else catalog.resolve(connection, collection)
                )
                if own is None:
                    if not create:
                        raise SearchError(catalog.missing(connection, collection))
                    if embed_dim is None or not fingerprint:
                        raise SearchError(
                            f"to make collection {collection!r} in {uri}, "
                            "name embed_dim and fingerprint of the model that will fill it"
                        )
                    own = catalog.make_named(
                        connection,
                        collection,
                        embed_dim=embed_dim,
                        fingerprint=fingerprint,
                        model=model,
                        settings=settings or schema.CollectionSettings(),
                        staged=staged,
                    )
                info, layout = schema.describe_collection(connection, own)
                info = replace(info, collection=collection)
                records.check_same_model(
                    info,
                    fingerprint=fingerprint or info.fingerprint,
                    embed_dim=embed_dim or info.embed_dim,
                )
                schema.load_collection(connection, layout)
                # The description of Milvus takes precedence: other clients may rebuild an index.
                if state := schema.index_state(connection, layout.name, records.VECTOR):
                    layout = replace(layout, index=state.index)
                by_alias = not staged and collection != own
                opened = cls(connection, info, layout, opened_as=collection if by_alias else "")
                opened.info = opened.describe()
        except BaseException:
            connection.close()
            raise
        return opened

    def __enter__(self) -> "Collection":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def in_milvus(self) -> "Collection":
        """Return the collection itself; see `VectorSearch`."""
        return self

    @property
    def lease(self) -> Lease | None:
        """Lock on the folder of Milvus Lite; None on a server."""
        return self._connection.lease

    @property
    def own_name(self) -> str:
        """Name of the collection itself; aliases may be switched."""
        return self._layout.name

    def is_same(self, other: "Collection") -> bool:
        """Return whether both are the same collection, under any names and URIs."""
        layout, theirs = self._layout, other._layout
        return layout.name == theirs.name and (
            self._connection.normalized_uri == other._connection.normalized_uri
            # Under two URIs of one server, the collection has the same id and creation time.
            or (layout.identity != (0, 0) and layout.identity == theirs.identity)
        )

    @property
    def capabilities(self) -> Capabilities:
        """Features of the connected Milvus."""
        return self._connection.capabilities

    @property
    def index_type(self) -> VectorIndex:
        """Index of the vectors."""
        return self._layout.index

    def change_index(
        self,
        index: VectorIndex,
        *,
        progress: ProgressMaker = silent,
        patience_s: float = schema.PATIENCE_S,
    ) -> None:
        """Rebuild the vector index; searches fail meanwhile.

        Args:
            index: Type and parameters of the new index, which Milvus checks.
            progress: Optional progress callback.
            patience_s: Timeout without any newly indexed row, in seconds.

        Raises:
            SearchError: It cannot be built; the old index is restored.
        """
        rows = self.count()
        if self.capabilities.lite:
            _check_for_lite(index, rows)
        self.flush()
        self._layout = schema.change_index(
            self._connection,
            self._layout,
            index,
            rows=rows,
            progress=progress,
            patience_s=patience_s,
        )

    def index_states(self) -> dict[Side, schema.IndexState]:
        """Return the build state of each vector's index.

        On Lite captions have no index before the first caption.
        """
        sides: tuple[Side, Side] = ("text", "image")
        states: dict[Side, schema.IndexState] = {}
        for side, vectors in zip(sides, self._layout.vectors, strict=True):
            if (state := schema.index_state(self._connection, *vectors)) is not None:
                states[side] = state
        return states

    def keep_calibration(self, text: str) -> None:
        """Store the calibration of match scores, as JSON; "" removes it."""
        schema.keep_calibration(self._connection, self._layout, text)
        self.info = replace(self.info, calibration=text)

    def describe(self) -> CollectionInfo:
        """Describe the collection, with the current `count`."""
        return replace(self.info, count=self.count())

    def upsert(self, rows: Iterable[Record]) -> int:
        """Upsert records: insert new ids, replace existing ids.

        Written rows are searchable at once and survive a killed process; `flush` indexes them.

        Returns:
            The number of records given.

        Raises:
            SearchError: A record cannot be stored; the message names it. Earlier records may
                already be written. Or the name of the collection now refers to another one.
        """
        written = 0
        for batch in batches(rows, WRITE_ROWS):
            records.check_records(batch, self.info.embed_dim)
            # One row an id: with duplicate ids, servers keep both rows or refuse the batch.
            self._write(list({record.id: record for record in batch}.values()))
            written += len(batch)
            self._check_name()
        return written

    def _write(self, batch: Sequence[Record]) -> None:
        """Write validated records with distinct ids."""
        written = [to_row(record) for record in batch]
        if not self._captions_indexed and any(record.text_vector is not None for record in batch):
            # Before the write, so that a killed writer leaves no caption without an index.
            schema.index_captions(self._connection, self._layout)
            self._captions_indexed = True
        if self._layout.shared:
            # A vector column cannot be null. The image's vector is the placeholder, hidden by
            # `has_text`; a constant would create a cluster of equal points in the graph.
            for row, record in zip(written, batch, strict=True):
                text = record.vector if record.text_vector is None else record.text_vector
                row[records.TEXT_VECTOR] = np.asarray(text, np.float32)
        else:
            # The captions first: the run after a killed one finds the image missing and writes both
            # again. Until `repair` deletes such orphans, searches hide them.
            caption_rows = [
                row | {records.VECTOR: np.asarray(record.text_vector, np.float32)}
                for row, record in zip(written, batch, strict=True)
                if record.text_vector is not None
            ]
            self._texts.delete(record.id for record in batch if record.text_vector is None)
            self._texts.upsert(caption_rows)
        self._images.upsert(written)

    def delete(self, ids: Iterable[str]) -> None:
        """Delete records; missing ids are ignored.

        Raises:
            SearchError: The name of the collection now refers to another one.
        """
        for batch in batches(ids, WRITE_ROWS):
            if not self._layout.shared:
                self._texts.delete(batch)
            self._images.delete(batch)
        self._check_name()

    def _check_name(self) -> None:
        """Check that the name still refers to this collection, after a write.

        `coca reindex` reads the records again when it has switched the name. A write that ended
        before the switch is copied; a later one fails here, and so is never acknowledged and lost.
        """
        if not self._opened_as:
            return
        target = catalog.resolve(self._connection, self._opened_as)
        if target not in (None, self.own_name):
            raise SearchError(
                f"{self._opened_as!r} in {self.info.uri} now refers to {target!r}, so what was "
                f"written to {self.own_name!r} may be missing there: open it again, and repeat the "
                "last write"
            )

    def flush(self) -> None:
        """Flush written rows into the index, where that is due."""
        self._texts.flush()
        self._images.flush()

    def close(self) -> None:
        """Close the connection; closing twice does nothing."""
        self._connection.close()

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        stored: list[Record] = []
        for batch in batches(ids, WRITE_ROWS):
            stored += self._to_records(list(self._images.get(batch, self._columns)))
        return {record.id: record for record in stored}

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of all records that match a filter, in no order.

        Raises:
            SearchError: Milvus rejects the filter.
        """
        return self._images.ids(filter)

    def hits(self, scores: Mapping[str, float]) -> list[Hit]:
        """Build hits with these scores, in this order; missing ids are skipped."""
        images = self._images
        stored_rows = images.get(scores, HIT_COLUMNS, freshness=images.freshness)
        by_id = {row[records.ID]: row for row in stored_rows}
        return [to_hit(by_id[id], score) for id, score in scores.items() if id in by_id]

    def read_hits(self) -> Iterator[list[Hit]]:
        """Iterate over all records as hits with a score of 0, in batches and in no order."""
        for rows in self._images.read_through(HIT_COLUMNS):
            yield [to_hit(row, 0.0) for row in rows]

    @property
    def writes(self) -> int:
        """Number of rows written or deleted so far through this client; on Lite, through any."""
        return self._images.journal.writes

    @property
    def sees_all_writes(self) -> bool:
        """Whether `writes` counts the writes of all clients, as on Lite, or only this client's."""
        return self._connection.lease is not None

    def changed_since(self, writes: int) -> list[str] | None:
        """List the ids written since `writes` had this value; None if that is too long ago."""
        return self._images.journal.since(writes)

    def count(self, filter: str = "") -> int:
        """Count the records, or those that match a filter.

        Raises:
            SearchError: Milvus rejects the filter.
        """
        return self._images.count(filter)

    def repair(self) -> set[str]:
        """Delete orphaned captions, which killed writers leave.

        Only for captions in a separate collection, as on Milvus 2.3; searches never return orphans.

        Returns:
            The ids of records whose caption has no vector; they must be written again.
        """
        if self._layout.shared:
            return set()
        columns = [records.ID, records.CAPTION, records.HAS_TEXT]
        texts = _by_id(self._texts.read_through(columns))
        images = _by_id(self._images.read_through(columns))
        if astray := _astray(texts, images):
            # Another writer may be between its two writes.
            time.sleep(_BETWEEN_S)
            texts_again = _by_id([self._texts.get(astray, columns)])
            astray = _astray(texts_again, _by_id([self._images.get(astray, columns)]))
            self._texts.delete(astray)
        unembedded = set(astray) | (images.keys() - texts.keys())
        return {id for id in unembedded if id in images and images[id][records.HAS_TEXT]}

    def origins(self, ids: Iterable[str] | None = None) -> Iterator[tuple[str, str, str, Origin]]:
        """Iterate over id, path, caption and origin of these records, or of all, in no order.

        Missing ids are skipped. Do not write meanwhile.
        """
        columns = [records.ID, records.PATH, records.CAPTION, records.ORIGIN]
        parts: Iterable[Iterable[Row]] = (
            self._images.read_through(columns) if ids is None else [self._images.get(ids, columns)]
        )
        for part in parts:
            for row in part:
                yield (row[records.ID], row[records.PATH], row[records.CAPTION], to_origin(row))

    def digests(self, ids: Iterable[str] | None = None) -> dict[str, bytes]:
        """Compute a digest of all fields but the vectors, of these records or of all; by id."""
        parts: Iterable[Iterable[Row]] = (
            self._images.read_through(HIT_COLUMNS)
            if ids is None
            else [self._images.get(ids, HIT_COLUMNS)]
        )
        return {row[records.ID]: row_digest(row) for part in parts for row in part}

    def read_through(self, filter: str = "") -> Iterator[list[Record]]:
        """Iterate over all records that match a filter, in batches; do not write meanwhile.

        Raises:
            SearchError: Milvus rejects the filter.
        """
        for batch in self._images.read_through(self._columns, filter):
            yield self._to_records(batch)

    def _to_records(self, batch: Sequence[Row]) -> list[Record]:
        captioned = [row for row in batch if row[records.HAS_TEXT]]
        if not self._layout.shared:
            ids = [row[records.ID] for row in captioned]
            captioned = list(self._texts.get(ids, [records.ID, records.VECTOR]))
        vectors = {row[records.ID]: row[self._layout.text_column] for row in captioned}
        return [to_record(row, vectors.get(row[records.ID])) for row in batch]

    @property
    def _columns(self) -> list[str]:
        extra = [records.TEXT_VECTOR] if self._layout.shared else []
        return [*RECORD_COLUMNS, *extra]

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        **options: Any,
    ) -> list[list[Hit]]:
        """Find the nearest records to each vector, nearest first.

        Args:
            vectors: One query a row, each of length 1.
            k: Maximum number of hits per query.
            **options: Fields of `SearchOptions`: filter, paging, vector field, grouping, width.

        Raises:
            SearchError: The vectors are invalid, `k` or `offset` is out of range, or Milvus rejects
                the filter.
        """
        page = SearchOptions.of(k=k, **options)
        page.check_page(self.index_type.max_results)
        names = [f"query {row}" for row in range(len(vectors))]
        queries = records.unit_rows(vectors, self.info.embed_dim, names)
        vectors_there, captions = self._vectors(page.on), page.on == "text"
        if page.group_by:
            answers = [
                grouped_ann_search(vectors_there, query, page, captions=captions)
                for query in queries
            ]
        else:
            answers = ann_search(vectors_there, queries, page, captions=captions)
        return page.keep_similar(answers)

    def _vectors(self, side: Side) -> Vectors:
        """Return the vector field of images or of captions, for searches."""
        layout, images = self._layout, self._images
        if side == "image":
            return Vectors(images, images, records.VECTOR, layout.index)
        return Vectors(images, self._texts, layout.text_column, layout.index)


def _check_for_lite(index: VectorIndex, rows: int) -> None:
    """Check what Milvus Lite does not check: an empty collection, and numbers that crash it."""
    if not rows:
        raise SearchError("Milvus Lite builds no index of an empty collection: index images first")
    for name, value in index.params.items():
        if isinstance(value, int | float) and not value > 0:
            raise ArgumentError(f"{name} of {index.type} must be above 0, got {value}")


def _by_id(parts: Iterable[Iterable[Row]]) -> dict[str, Row]:
    return {row[records.ID]: row for part in parts for row in part}


def _astray(texts: Mapping[str, Row], images: Mapping[str, Row]) -> list[str]:
    return [id for id, row in texts.items() if not belongs(row, images.get(id))]
