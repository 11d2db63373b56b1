"""Record store over one collection, or over two where captions need a separate one."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from coca.search import records
from coca.search.milvus.ann import Vectors
from coca.search.milvus.collection_io import WRITE_ROWS, CollectionIO, Row, batches
from coca.search.milvus.connection import Connection
from coca.search.milvus.row_codec import (
    HIT_COLUMNS,
    RECORD_COLUMNS,
    belongs,
    row_digest,
    to_origin,
    to_record,
    to_row,
)
from coca.search.milvus.schema import Layout, index_captions
from coca.search.records import Origin, Record
from coca.search.search_options import Side

_BETWEEN_S = 2.0
"""Maximum time between a writer's caption and image of one record, in seconds."""


class RecordStore:
    """Reads and writes records in any layout.

    Attributes:
        layout: Collections and columns of the parts of a record.
        images: Every record, with the vector of its image.
    """

    def __init__(self, connection: Connection, layout: Layout) -> None:
        self.layout = layout
        self._captions_indexed = False
        may_move = not layout.made_for
        self.images = CollectionIO(connection, layout.name, layout.consistency, may_move=may_move)
        # The same collection, if one row has both vectors.
        self._texts = self.images
        if not layout.shared:
            self._texts = CollectionIO(connection, layout.texts, layout.consistency)

    def vectors(self, side: Side) -> Vectors:
        """Return the vector field of images or of captions, for searches.

        Raises:
            SearchError: It is neither `"image"` nor `"text"`.
        """
        layout = self.layout
        if side == "image":
            return Vectors(self.images, self.images, records.VECTOR, layout.index, layout.codec)
        return Vectors(self.images, self._texts, layout.text_column, layout.index, layout.codec)

    def write(self, batch: Sequence[Record]) -> None:
        """Write validated records with distinct ids."""
        encode = self.layout.codec.encode
        encoded = encode(np.stack([record.vector for record in batch]))
        # A vector column cannot be null. The image's vector is the placeholder, hidden by
        # `has_text`; a constant would create a cluster of equal points in the graph.
        texts = encode(
            np.stack([one.vector if one.text_vector is None else one.text_vector for one in batch])
        )
        written = [
            to_row(record) | {records.VECTOR: vector}
            for record, vector in zip(batch, encoded, strict=True)
        ]
        if not self._captions_indexed and any(one.text_vector is not None for one in batch):
            # Before the write, so that a killed writer leaves no caption without an index.
            index_captions(self.images.connection, self.layout)
            self._captions_indexed = True
        if self.layout.shared:
            for row, vector in zip(written, texts, strict=True):
                row[records.TEXT_VECTOR] = vector
        else:
            # The captions first: the run after a killed one finds the image missing and writes both
            # again. Until `repair` deletes such orphans, searches hide them.
            caption_rows = [
                row | {records.VECTOR: vector}
                for row, record, vector in zip(written, batch, texts, strict=True)
                if record.text_vector is not None
            ]
            self._texts.delete(record.id for record in batch if record.text_vector is None)
            self._texts.upsert(caption_rows)
        self.images.upsert(written)

    def delete(self, ids: Iterable[str]) -> None:
        """Delete records; missing ids are ignored."""
        for batch in batches(ids, WRITE_ROWS):
            if not self.layout.shared:
                self._texts.delete(batch)
            self.images.delete(batch)

    def flush(self) -> None:
        """Flush written rows into the index, where that is due."""
        self._texts.flush()
        self.images.flush()

    def repair(self) -> set[str]:
        """Delete orphaned captions, which killed writers leave.

        Returns:
            The ids of records whose caption has no vector.
        """
        if self.layout.shared:
            return set()
        columns = [records.ID, records.CAPTION, records.HAS_TEXT]
        texts = _by_id(self._texts.read_through(columns))
        images = _by_id(self.images.read_through(columns))
        if astray := _astray(texts, images):
            # Another writer may be between its two writes.
            time.sleep(_BETWEEN_S)
            texts_again = _by_id([self._texts.get(astray, columns)])
            astray = _astray(texts_again, _by_id([self.images.get(astray, columns)]))
            self._texts.delete(astray)
        unembedded = set(astray) | (images.keys() - texts.keys())
        return {id for id in unembedded if id in images and images[id][records.HAS_TEXT]}

    def get(self, ids: Iterable[str]) -> Iterator[Record]:
        """Read the records with these ids, in no order; missing ids are skipped."""
        for batch in batches(ids, WRITE_ROWS):
            yield from self._to_records(list(self.images.get(batch, self._columns)))

    def read_through(self, filter: str = "") -> Iterator[list[Record]]:
        """Iterate over all records that match a filter, in batches, in no order."""
        for batch in self.images.read_through(self._columns, filter):
            yield self._to_records(batch)

    def origins(self, ids: Iterable[str] | None) -> Iterator[tuple[str, str, str, Origin]]:
        """Iterate over id, path, caption and origin of these records, or of all, in no order."""
        columns = [records.ID, records.PATH, records.CAPTION, records.ORIGIN]
        found: Iterable[Iterable[Row]] = (
            self.images.read_through(columns) if ids is None else [self.images.get(ids, columns)]
        )
        for batch in found:
            for row in batch:
                yield (row[records.ID], row[records.PATH], row[records.CAPTION], to_origin(row))

    def digests(self, ids: Iterable[str] | None) -> dict[str, bytes]:
        """Compute the digests of all fields but the vectors, of these records or of all."""
        parts: Iterable[Iterable[Row]] = (
            self.images.read_through(HIT_COLUMNS)
            if ids is None
            else [self.images.get(ids, HIT_COLUMNS)]
        )
        return {row[records.ID]: row_digest(row) for part in parts for row in part}

    def _to_records(self, batch: Sequence[Row]) -> list[Record]:
        captioned = [row for row in batch if row[records.HAS_TEXT]]
        if not self.layout.shared:
            ids = [row[records.ID] for row in captioned]
            captioned = list(self._texts.get(ids, [records.ID, records.VECTOR]))
        decode = self.layout.codec.decode
        texts = decode([row[self.layout.text_column] for row in captioned])
        vectors = {row[records.ID]: text for row, text in zip(captioned, texts, strict=True)}
        images = decode([row[records.VECTOR] for row in batch])
        return [
            to_record(row | {records.VECTOR: image}, vectors.get(row[records.ID]))
            for row, image in zip(batch, images, strict=True)
        ]

    @property
    def _columns(self) -> list[str]:
        extra = [records.TEXT_VECTOR] if self.layout.shared else []
        return [*RECORD_COLUMNS, *extra]


def _by_id(parts: Iterable[Iterable[Row]]) -> dict[str, Row]:
    return {row[records.ID]: row for part in parts for row in part}


def _astray(texts: Mapping[str, Row], images: Mapping[str, Row]) -> list[str]:
    return [id for id, row in texts.items() if not belongs(row, images.get(id))]
