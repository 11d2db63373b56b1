"""Reading pictures ahead of the model: their bytes, their words, and the model's input."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from coca.core.ahead import map_ahead
from coca.core.errors import DataError
from coca.search.engine import Embedder
from coca.search.ledger import Ledger
from coca.search.pictures import Picture, Words
from coca.search.records import content_id
from coca.search.sources import Entry, PictureSource


@runtime_checkable
class PreparingEmbedder(Embedder, Protocol):
    """An embedder that parts reading a picture from looking at it, so that threads can read."""

    def prepare_image(self, image: Any) -> Any:
        """One picture as the model takes it.

        Raises:
            DataError: It cannot be read.
        """
        ...

    def embed_prepared(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        """A vector of length 1 for each picture that `prepare_image` gave."""
        ...


@dataclass(frozen=True)
class Found:
    """What reading an entry gave; one of the first two is there."""

    entry: Entry
    fault: DataError | None = None
    """Why there is no picture, or none that the model can take."""
    picture: Picture | None = None
    id: str = ""
    """Of the picture."""
    words: Words | None = None
    """What is said beside an entry that was not read, since its stamp is known."""
    prepared: Any = None
    """The model's input; None if nobody needs it, or the embedder takes the bytes."""


class Reader:
    """Reads entries and pictures in threads, no further ahead than a few batches."""

    def __init__(self, embedder: Embedder, ledger: Ledger, *, threads: int, ahead: int) -> None:
        self._embedder = embedder if isinstance(embedder, PreparingEmbedder) else None
        self._ledger = ledger
        self._threads = threads
        self._ahead = ahead

    def read(self, source: PictureSource) -> Iterator[Found]:
        """All entries of a source; the pictures of those whose stamp is known are left unread."""
        return self._each(
            lambda job: self._entry(source, *job),
            (
                (entry, self._ledger.is_claimed(entry.path, entry.stamp))
                for entry in source.entries()
            ),
        )

    def take(self, pictures: Iterable[Picture]) -> Iterator[Found]:
        """Pictures that somebody else has read."""
        return self._each(
            lambda picture: self.examine(Entry(picture.path, picture.stamp), picture), pictures
        )

    def read_again(self, source: PictureSource, entry: Entry) -> Found:
        """An entry that was left unread."""
        return self._entry(source, entry, False)

    def examine(self, entry: Entry, picture: Picture) -> Found:
        """Take a picture's id, and prepare it if it is new."""
        id = content_id(picture.image)
        if self._embedder is None or id in self._ledger:
            return Found(entry, picture=picture, id=id)
        try:
            prepared = self._embedder.prepare_image(picture.image)
        except DataError as error:
            return Found(entry, error, picture, id)
        return Found(entry, None, picture, id, prepared=prepared)

    def _entry(self, source: PictureSource, entry: Entry, claimed: bool) -> Found:
        try:
            if claimed:
                return Found(entry, words=source.words(entry))
            return self.examine(entry, source.read(entry))
        except DataError as error:
            return Found(entry, error)

    def _each(self, work: Callable[[Any], Found], items: Iterable[Any]) -> Iterator[Found]:
        return map_ahead(work, items, threads=self._threads, ahead=self._ahead)


def embed_found(
    embedder: Embedder, found: Mapping[str, Found]
) -> tuple[dict[str, Float32[np.ndarray, " E"]], dict[str, DataError]]:
    """The vectors of pictures by id, and the faults of those that cannot be read."""
    if isinstance(embedder, PreparingEmbedder):
        return _embed_prepared(embedder, found)
    ids = list(found)
    if not ids:
        return {}, {}
    try:
        vectors = embedder.embed_images([_bytes(found[id]) for id in ids])
    except DataError as error:
        if len(ids) == 1:
            return {}, {ids[0]: error}
        # Halved until the bad ones stand alone.
        half = len(ids) // 2
        left, right = (
            embed_found(embedder, {id: found[id] for id in part})
            for part in (ids[:half], ids[half:])
        )
        return left[0] | right[0], left[1] | right[1]
    return dict(zip(ids, vectors, strict=True)), {}


def _embed_prepared(
    embedder: PreparingEmbedder, found: Mapping[str, Found]
) -> tuple[dict[str, Float32[np.ndarray, " E"]], dict[str, DataError]]:
    prepared: dict[str, Any] = {}
    faults: dict[str, DataError] = {}
    for id, one in found.items():
        try:
            if one.fault is not None:
                raise one.fault
            # None: a record of these bytes was there when it was read, and is there no more.
            ready = one.prepared
            prepared[id] = embedder.prepare_image(_bytes(one)) if ready is None else ready
        except DataError as error:
            faults[id] = error
    if not prepared:
        return {}, faults
    vectors = embedder.embed_prepared(list(prepared.values()))
    return dict(zip(prepared, vectors, strict=True)), faults


def _bytes(found: Found) -> bytes:
    assert found.picture is not None
    return found.picture.image
