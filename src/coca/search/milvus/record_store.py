"""Records over one collection or two: a caption's vector stands where Milvus has room for it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from coca.core.errors import ArgumentError
from coca.search import records
from coca.search.milvus.ann_pages import Vectors
from coca.search.milvus.collection_io import WRITE_ROWS, CollectionIO, Row, batches
from coca.search.milvus.connection import Connection
from coca.search.milvus.row_codec import RECORD_COLUMNS, belongs, to_origin, to_record, to_row
from coca.search.milvus.schema import Layout, index_captions
from coca.search.records import Origin, Record

Side: TypeAlias = Literal["image", "text"]
"""Which vector of a record is meant: that of the image, or that of its caption."""

_BETWEEN_S = 2.0
"""How long a writer may be between the caption and the image of a record."""


def check_side(side: str) -> None:
    """Refuse what is neither images nor captions.

    Raises:
        SearchError: It is neither.
    """
    if side not in get_args(Side):
        raise ArgumentError(f"the side to search on is {side!r}; right is image or text")


class RecordStore:
    """Writes and reads records, whatever the layout.

    Attributes:
        layout: Where the parts of a record stand.
        images: Every record, with the vector of its image.
    """

    def __init__(self, connection: Connection, layout: Layout) -> None:
        self.layout = layout
        self._captions_indexed = False
        may_move = not layout.made_for
        self.pictures = CollectionIO(connection, layout.name, layout.consistency, may_move=may_move)
        # Where one row holds both vectors, this is the same collection once more.
        self._texts = self.pictures
        if not layout.shared:
            self._texts = CollectionIO(connection, layout.texts, layout.consistency)

    def vectors(self, side: Side) -> Vectors:
        """The vectors of images or of captions, to search in.

        Raises:
            SearchError: It is neither.
        """
        check_side(side)
        if side == "image":
            return Vectors(self.pictures, self.pictures, records.VECTOR, self.layout.index)
        return Vectors(self.pictures, self._texts, self.layout.text_column, self.layout.index)

    def write(self, batch: Sequence[Record]) -> None:
        """Write records of different ids, which have been checked."""
        written = [to_row(record) for record in batch]
        if not self._captions_indexed and any(one.text_vector is not None for one in batch):
            # Before they are written: whoever is killed leaves no caption without an index.
            index_captions(self.pictures.connection, self.layout)
            self._captions_indexed = True
        if self.layout.shared:
            for row, record in zip(written, batch, strict=True):
                # A column of vectors cannot be empty. The image's own vector stands in, hidden by
                # `has_text`: a constant would make a knot of equal points in the graph.
                vector = record.vector if record.text_vector is None else record.text_vector
                row[records.TEXT_VECTOR] = np.asarray(vector, dtype=np.float32)
        else:
            # The captions first: a run that is killed in between finds the image unwritten, and
            # writes both again. Until then, or for ever if the image is gone, searches hide what
            # `repair` removes.
            spoken = [
                row | {records.VECTOR: np.asarray(record.text_vector, dtype=np.float32)}
                for row, record in zip(written, batch, strict=True)
                if record.text_vector is not None
            ]
            self._texts.delete(record.id for record in batch if record.text_vector is None)
            self._texts.upsert(spoken)
        self.pictures.upsert(written)

    def delete(self, ids: Iterable[str]) -> None:
        """Remove records; ids that are not there are ignored."""
        for batch in batches(ids, WRITE_ROWS):
            if not self.layout.shared:
                self._texts.delete(batch)
            self.pictures.delete(batch)

    def flush(self) -> None:
        """Bring what was written into the index, where that is due."""
        self._texts.flush()
        self.pictures.flush()

    def repair(self) -> set[str]:
        """Remove captions that do not belong to their images, as killed writers leave them.

        Returns:
            The ids of records whose caption has no vector.
        """
        if self.layout.shared:
            return set()
        columns = [records.ID, records.CAPTION, records.HAS_TEXT]
        texts = _by_id(self._texts.read_through(columns))
        pictures = _by_id(self.pictures.read_through(columns))
        if astray := _astray(texts, pictures):
            # Another writer may have been between its two writes.
            time.sleep(_BETWEEN_S)
            texts_again = _by_id([self._texts.get(astray, columns)])
            astray = _astray(texts_again, _by_id([self.pictures.get(astray, columns)]))
            self._texts.delete(astray)
        unspoken = set(astray) | (pictures.keys() - texts.keys())
        return {id for id in unspoken if id in pictures and pictures[id][records.HAS_TEXT]}

    def get(self, ids: Iterable[str]) -> Iterator[Record]:
        """The records with these ids, as far as they are there, in no order."""
        for batch in batches(ids, WRITE_ROWS):
            yield from self._to_records(list(self.pictures.get(batch, self._columns)))

    def read_through(self, filter: str = "") -> Iterator[list[Record]]:
        """All records that fulfil a filter, in batches and in no order."""
        for batch in self.pictures.read_through(self._columns, filter):
            yield self._to_records(batch)

    def origins(self, ids: Iterable[str] | None) -> Iterator[tuple[str, str, str, Origin]]:
        """Id, path, caption and origin of the records with these ids, or of all, in no order."""
        columns = [records.ID, records.PATH, records.CAPTION, records.ORIGIN]
        found: Iterable[Iterable[Row]] = (
            self.pictures.read_through(columns)
            if ids is None
            else [self.pictures.get(ids, columns)]
        )
        for batch in found:
            for row in batch:
                yield (row[records.ID], row[records.PATH], row[records.CAPTION], to_origin(row))

    def _to_records(self, batch: Sequence[Row]) -> list[Record]:
        spoken = [row for row in batch if row[records.HAS_TEXT]]
        if not self.layout.shared:
            ids = [row[records.ID] for row in spoken]
            spoken = list(self._texts.get(ids, [records.ID, records.VECTOR]))
        vectors = {row[records.ID]: row[self.layout.text_column] for row in spoken}
        return [to_record(row, vectors.get(row[records.ID])) for row in batch]

    @property
    def _columns(self) -> list[str]:
        extra = [records.TEXT_VECTOR] if self.layout.shared else []
        return [*RECORD_COLUMNS, *extra]


def _by_id(parts: Iterable[Iterable[Row]]) -> dict[str, Row]:
    return {row[records.ID]: row for part in parts for row in part}


def _astray(texts: Mapping[str, Row], pictures: Mapping[str, Row]) -> list[str]:
    return [id for id, row in texts.items() if not belongs(row, pictures.get(id))]
