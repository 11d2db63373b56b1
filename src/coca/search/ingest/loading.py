"""Load the entries of sources in threads: bytes, metadata, and preprocessed model input."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from coca.core.errors import DataError
from coca.core.prefetch import iterate_ahead, map_ahead
from coca.search.filters import where
from coca.search.ingest.encoding import Encoder
from coca.search.ingest.known_records import KnownRecords, RecordState
from coca.search.ingest.merging import is_same_label, label_of
from coca.search.ingest.photo_metadata import Header, read_header, reads_of_files
from coca.search.ingest.sources import (
    WHOLE,
    Entry,
    ImageSource,
    SourceImage,
)
from coca.search.records import CONTENT, READ_TEXT, content_id, storage_error
from coca.search.store import Collection

_MOST_THREADS = 16
_AHEAD_BATCHES = 2
"""Number of batches that are read ahead of the model."""


@dataclass(frozen=True)
class LoadedItem:
    """Result of reading an entry: an image, an error, or unchanged records."""

    entry: Entry
    fault: DataError | None = None
    """Error, if the image cannot be read or preprocessed."""
    unchanged: int = 0
    """Number of records of the entry, if all are up to date; then nothing was read."""
    image: SourceImage | None = None
    content: str = ""
    """Hash of the image's bytes."""
    header: Header = field(default_factory=Header)
    """Header of the image."""
    perceptual_hash: bytes = b""
    """Perceptual hash of the image; empty if the image is known."""
    prepared: Any = None
    """Preprocessed model input; None if the image is known, or if the embedder takes bytes."""
    series: Entry | None = None
    """Series of the frame; set only for its last frame."""

    @property
    def data(self) -> bytes:
        """Bytes of the image."""
        assert self.image is not None
        return self.image.data


class Reader:
    """Loads entries and images in threads, a few batches ahead.

    Args:
        known: Records to compare the entries with.
        encoder: Preprocesses new images.
        collection: Collection of the records.
        captions: Whether records without a caption are read again.
        texts: Whether records whose text inside was not read are read again.
        batch_size: Images per batch.
    """

    def __init__(
        self,
        known: KnownRecords,
        encoder: Encoder,
        collection: Collection,
        *,
        captions: bool,
        texts: bool,
        batch_size: int,
    ) -> None:
        self._known, self._encoder, self._collection = known, encoder, collection
        self._captions, self._text_flag = captions, READ_TEXT if texts else 0
        self._ahead = _AHEAD_BATCHES * batch_size
        self._contents: set[str] = set()
        self._lock = threading.Lock()

    def read(self, source: ImageSource) -> Iterator[LoadedItem]:
        """Load all entries of a source; skip those whose records are up to date."""
        if source.is_series:
            return iterate_ahead(self._all_frames(source), ahead=self._ahead)
        return map_ahead(
            lambda entry: self._load(source, entry),
            source.entries(),
            threads=min(os.cpu_count() or 1, _MOST_THREADS),
            ahead=self._ahead,
        )

    def _load(self, source: ImageSource, entry: Entry) -> LoadedItem:
        try:
            state = self._known.get(entry)
            if state is not None and self._is_current(source, entry, state):
                return LoadedItem(entry, unchanged=1)
            return self._examine(next(source.read(entry)), entry)
        except DataError as error:
            return LoadedItem(entry, error)

    def _is_current(self, source: ImageSource, entry: Entry, state: RecordState) -> bool:
        """Return whether a record needs no reading of its image."""
        flags = self._text_flag
        if state.etag != entry.etag or not entry.etag:
            return False
        if (annotation := source.annotation(entry)) is not None:
            flags |= reads_of_files()
            if not is_same_label(state.label, label_of(annotation, entry)):
                return False
        return not flags & ~state.read and (state.has_caption or not self._captions)

    def _all_frames(self, source: ImageSource) -> Iterator[LoadedItem]:
        for entry in source.entries():
            frames = self._known.whole(entry, captions=self._captions, flags=self._text_flag)
            if frames:
                yield LoadedItem(entry, unchanged=frames)
            else:
                yield from self._frames(source, entry)

    def _frames(self, source: ImageSource, entry: Entry) -> Iterator[LoadedItem]:
        last: SourceImage | None = None
        try:
            for image in source.read(entry):
                if last is not None:
                    yield self._examine(last)
                last = image
        except DataError as error:
            if last is not None:
                yield self._examine(last)
            yield LoadedItem(entry, error)
        else:
            if last is not None:
                last = replace(last, etag=last.etag + WHOLE)
                yield replace(self._examine(last), series=entry)

    def _examine(self, image: SourceImage, entry: Entry | None = None) -> LoadedItem:
        """Hash an image and read its header; preprocess it if its bytes are new."""
        entry, given = entry or Entry(image.path, image.etag), image.annotation
        if fault := storage_error(
            image.path, given.caption, given.metadata, tags=given.tags, album=given.album
        ):
            return LoadedItem(entry, DataError(f"{image.path}: {fault}", reason="bad_words"))
        item = LoadedItem(
            entry, image=image, content=content_id(image.data), header=read_header(image.data)
        )
        if self._is_known(item.content):
            return item
        try:
            size = item.header.width, item.header.height
            perceptual_hash, prepared = self._encoder.prepare(image.data, size)
            return replace(item, perceptual_hash=perceptual_hash, prepared=prepared)
        except DataError as error:
            return replace(item, fault=error)

    def _is_known(self, content: str) -> bool:
        """Return whether the collection has these bytes, or this run has read them before."""
        with self._lock:
            known = content in self._contents or content in self._known.contents
            self._contents.add(content)
        if known or self._known.complete:
            return known
        return self._collection.count(where(CONTENT, "==", content)) > 0
