"""Prefetch images in threads: bytes, metadata, and preprocessed model input."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.core.prefetch import iterate_ahead, map_ahead
from coca.search.ingest.photo_metadata import Annotation, Header, read_header
from coca.search.ingest.snapshot import WHOLE, CollectionSnapshot
from coca.search.ingest.sources import Entry, ItemSource, SeriesSource, SourceImage
from coca.search.predictor import Embedder, PreparingEmbedder
from coca.search.records import Record, content_id


@dataclass(frozen=True)
class LoadedItem:
    """Result of reading an entry: an image, an error, or a skipped read."""

    entry: Entry
    fault: DataError | None = None
    """Error, if the image cannot be read or preprocessed."""
    image: SourceImage | None = None
    id: str = ""
    """Id of the image."""
    annotation: Annotation | None = None
    """Metadata of an entry whose image was not read, since its etag is known."""
    header: Header = field(default_factory=Header)
    """Header of the image."""
    prepared: Any = None
    """Preprocessed model input; None if not needed, or if the embedder takes bytes."""
    given: Record | None = None
    """Record that was embedded elsewhere, with vectors; the image then has no bytes."""
    series: Entry | None = None
    """Series of the frame; set only for its last frame, or if the whole series is present."""


class Reader:
    """Reads entries and images in threads, a few batches ahead."""

    def __init__(
        self,
        embedder: Embedder,
        snapshot: CollectionSnapshot,
        *,
        captions: bool,
        threads: int,
        ahead: int,
    ) -> None:
        self._embedder = embedder if isinstance(embedder, PreparingEmbedder) else None
        self._snapshot = snapshot
        self._captions = captions
        self._threads = threads
        self._ahead = ahead

    def read(self, source: ItemSource) -> Iterator[LoadedItem]:
        """Read all entries of a source; skip images with a known etag."""
        return self._each(
            lambda job: self._entry(source, *job),
            (
                (entry, self._snapshot.has_entry(entry.path, entry.etag))
                for entry in source.entries()
            ),
        )

    def read_series(self, source: SeriesSource) -> Iterator[LoadedItem]:
        """Read all images of all entries, in order; skip series that are already present."""
        # Evaluated now, as the thread must not read the changing snapshot.
        there = {
            entry.path
            for entry in source.entries()
            if self._snapshot.is_whole(entry, captions=self._captions)
        }

        def images() -> Iterator[LoadedItem]:
            for entry in source.entries():
                if entry.path in there:
                    yield LoadedItem(entry, series=entry)
                else:
                    yield from self._frames(source, entry)

        return iterate_ahead(images(), ahead=self._ahead)

    def take(self, images: Iterable[SourceImage]) -> Iterator[LoadedItem]:
        """Load images that were read elsewhere."""
        return self._each(lambda image: self.examine(Entry(image.path, image.etag), image), images)

    def read_again(self, source: ItemSource, entry: Entry) -> LoadedItem:
        """Read an entry that was skipped."""
        return self._entry(source, entry, False)

    def examine(self, entry: Entry, image: SourceImage) -> LoadedItem:
        """Compute an image's id, and preprocess it if it is new."""
        id, header = content_id(image.data), read_header(image.data)
        item = LoadedItem(entry, image=image, id=id, header=header)
        if self._embedder is None or id in self._snapshot:
            return item
        try:
            return replace(item, prepared=self._embedder.prepare_image(image.data))
        except DataError as error:
            return replace(item, fault=error)

    def _frames(self, source: SeriesSource, entry: Entry) -> Iterator[LoadedItem]:
        last: SourceImage | None = None
        try:
            for image in source.series(entry):
                if last is not None:
                    yield self.examine(Entry(last.path, last.etag), last)
                last = image
        except DataError as error:
            if last is not None:
                yield self.examine(Entry(last.path, last.etag), last)
            yield LoadedItem(entry, error)
            return
        if last is not None:
            last = replace(last, etag=last.etag + WHOLE)
            yield replace(self.examine(Entry(last.path, last.etag), last), series=entry)

    def _entry(self, source: ItemSource, entry: Entry, claimed: bool) -> LoadedItem:
        try:
            if claimed:
                return LoadedItem(entry, annotation=source.annotation(entry))
            return self.examine(entry, source.read(entry))
        except DataError as error:
            return LoadedItem(entry, error)

    def _each(
        self, work: Callable[[Any], LoadedItem], items: Iterable[Any]
    ) -> Iterator[LoadedItem]:
        return map_ahead(work, items, threads=self._threads, ahead=self._ahead)


def records_to_items(record: Record) -> Iterator[LoadedItem]:
    """Convert a record that was embedded elsewhere to loaded items, one a path."""
    files = record.origin.files
    # The primary path first: the record has its metadata.
    for path in sorted(files, key=lambda path: (path != record.path, path)):
        origin = replace(record.origin, files={path: files[path]})
        given = replace(record, path=path, origin=origin)
        image = SourceImage(path=path, data=b"", etag=files[path])
        yield LoadedItem(Entry(path, files[path]), image=image, id=record.id, given=given)


def embed_items(
    embedder: Embedder, items: Mapping[str, LoadedItem]
) -> tuple[dict[str, Float32[np.ndarray, " E"]], dict[str, DataError]]:
    """Embed images; return vectors and errors by id."""
    if isinstance(embedder, PreparingEmbedder):
        return _embed_prepared(embedder, items)
    vectors: dict[str, Float32[np.ndarray, " E"]] = {}
    faults: dict[str, DataError] = {}
    answers = embed_each(embedder, [_bytes(one) for one in items.values()])
    for id, answer in zip(items, answers, strict=True):
        if isinstance(answer, DataError):
            faults[id] = answer
        else:
            vectors[id] = answer
    return vectors, faults


def embed_each(
    embedder: Embedder, images: Sequence[bytes]
) -> list[Float32[np.ndarray, " E"] | DataError]:
    """Embed a batch of images; return the vector or the error of each."""
    if not images:
        return []
    try:
        return list(embedder.embed_images(images))
    except DataError as error:
        if len(images) == 1:
            return [error]
        # Bisect to isolate the unreadable images.
        half = len(images) // 2
        return [*embed_each(embedder, images[:half]), *embed_each(embedder, images[half:])]


def _embed_prepared(
    embedder: PreparingEmbedder, items: Mapping[str, LoadedItem]
) -> tuple[dict[str, Float32[np.ndarray, " E"]], dict[str, DataError]]:
    prepared: dict[str, Any] = {}
    faults: dict[str, DataError] = {}
    for id, one in items.items():
        try:
            if one.fault is not None:
                raise one.fault
            # None: a record of these bytes existed at the read, and was deleted since.
            ready = one.prepared
            prepared[id] = embedder.prepare_image(_bytes(one)) if ready is None else ready
        except DataError as error:
            faults[id] = error
    if not prepared:
        return {}, faults
    vectors = embedder.embed_prepared(list(prepared.values()))
    return dict(zip(prepared, vectors, strict=True)), faults


def _bytes(item: LoadedItem) -> bytes:
    assert item.image is not None
    return item.image.data
