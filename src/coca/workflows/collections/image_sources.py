"""Image sources of indexing: open folders, files, videos, tars and tables."""

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.core.formats import VIDEO_SUFFIXES
from coca.core.heif import PHOTO_SUFFIXES
from coca.core.local_files import modified_at
from coca.data.sources.base import PlacedSource, SourceConfig
from coca.data.sources.factory import open_source
from coca.data.sources.shards import ShardSource
from coca.data.sources.tables import SUFFIXES
from coca.data.storage.storage import expand_braces, full_path, is_remote
from coca.search.ingest.local_files import Annotation, Picture
from coca.search.ingest.sources import (
    AnySource,
    Entry,
    FileSource,
    PictureSource,
    SeriesSource,
    empty_folders,
)
from coca.workflows.collections.video_source import VideoSource

logger = logging.getLogger(__name__)

EVERY_S = 5.0
"""Default interval between the frames of a video, in seconds."""

_TABLE_KINDS = dict.fromkeys(SUFFIXES, "manifest") | {".zip": "zip"}
"""File suffix to kind of the source that reads it."""
TABLE_SUFFIXES = frozenset(_TABLE_KINDS)
"""Suffixes of files with one row per image, which may contain the images."""

_WRONG_KINDS = {
    ".json": "a manifest has one JSON object per line: write it as .jsonl, or as .csv or .parquet",
    ".npy": "vectors alone do not identify their images; name the images themselves",
    ".db": "it is a collection; name the images to index, and pass the collection by --uri",
    ".gz": "compressed tars have no random access; unpack it to a .tar",
    ".tgz": "compressed tars have no random access; unpack it to a .tar",
    ".zst": "compressed tars have no random access; unpack it to a .tar",
    ".txt": "a list of files is read as a manifest: a .csv whose first line is `image`",
    ".idx": "that is the index of a tar; name the tar",
}


def sources_of(
    places: Sequence[str | Path], *, every_s: float = EVERY_S, read_from: Sequence[str] = ()
) -> list[PictureSource | SeriesSource]:
    """Open the sources of folders, files, patterns and URLs, of mixed kinds.

    A tar or table that is unreadable as a whole does not stop the others. It becomes an
    `UnreadableFile`, whose single entry is reported as bad.

    Args:
        places: Folders of images, videos or tars, single files, tars (with `*` and braces, also
            in URLs), manifests (JSON Lines, CSV, Parquet), and zips with images and a table.
        every_s: Interval between the frames of a video, in seconds; 0 skips videos.
        read_from: URL prefixes and folders that tables may reference; see
            `SourceConfig.read_from`.

    Raises:
        DataError: A source is missing, or none can be read.
        ConfigError: A source cannot be indexed; the message names the remedy.
        MissingExtraError: A video is given, and the extra `video` is not installed.
    """
    by_kind: dict[str, list[str]] = {kind: [] for kind in ("files", "videos", "tars", "table")}
    for place in map(str, places):
        for kind in _kinds(place):
            by_kind[kind].append(place)
    sources: list[PictureSource | SeriesSource] = []
    if files := by_kind["files"]:
        sources.append(FileSource(files))
    if every_s and (videos := by_kind["videos"]):
        source = VideoSource(videos, every_s=every_s)
        if _can_read(source, videos):
            sources.append(source)
    unreadable: list[UnreadableFile] = []
    if tars := by_kind["tars"]:
        shards = SampleSource(
            SourceConfig(kind="shards", path=tuple(tars)),
            on_bad_tar=lambda tar, error: unreadable.append(UnreadableFile(tar, error)),
        )
        if shards.entries() or not unreadable:
            sources.append(shards)
    for table in by_kind["table"]:
        kind = _TABLE_KINDS[Path(table).suffix.lower()]
        try:
            sources.append(
                SampleSource(SourceConfig(kind=kind, path=table, read_from=tuple(read_from)))
            )
        except DataError as error:
            if not is_remote(table) and not os.path.exists(table):
                raise
            unreadable.append(UnreadableFile(table, error))
    if unreadable and not sources:
        raise unreadable[0].fault
    return [*sources, *unreadable]


def check_places(places: Sequence[str | Path]) -> None:
    """Check sources by name and suffix, before `sources_of` opens them.

    Raises:
        DataError: A source is missing.
        ConfigError: A source cannot be indexed.
    """
    for place in places:
        _kinds(str(place))


def check_filled(
    places: Sequence[str | Path], sources: Sequence[AnySource], *, prune: bool = False
) -> None:
    """Check that the sources have entries, and warn about each empty folder.

    Args:
        places: Arguments as given.
        sources: Sources of `places`.
        prune: Add a hint to the error on how to prune the records. Pruning warns about empty
            folders itself.

    Raises:
        DataError: No source has an entry.
    """
    if not any(source.entries() for source in sources):
        raise DataError(
            f"there is nothing to index in {', '.join(map(str, places))}: no image "
            f"({', '.join(sorted(PHOTO_SUFFIXES))}), video or .tar is there"
            + ("; add --yes to remove its records if its drive is mounted" if prune else ""),
            reason="missing",
        )
    for folder in [] if prune else empty_folders(places, sources):
        logger.warning("there is nothing to index in %s", folder)


class UnreadableFile:
    """A tar or table that is unreadable as a whole: one entry, whose `read` raises.

    Attributes:
        fault: The error.
    """

    def __init__(self, path: str, fault: DataError) -> None:
        self.fault = fault
        self._entry = Entry(full_path(path), "")

    def entries(self) -> Sequence[Entry]:
        """Return the file as the only entry."""
        return [self._entry]

    def annotation(self, entry: Entry) -> None:
        """Return None: there is no text."""

    def read(self, entry: Entry) -> Picture:
        """Raise the error."""
        raise self.fault

    def has_lost(self, path: str, stamp: str) -> bool:
        """Return False, since the content is unknown."""
        return False


class SampleSource:
    """Adapter from a source of training samples to a source of images.

    Labels become tags. Further captions, and questions with their answers, become metadata.

    Args:
        config: Configuration of the source.
        on_bad_tar: Called for each unreadable tar, which is skipped; for sources of tars.

    Raises:
        DataError: The source cannot be read.
        ConfigError: The source has no stable paths of its images.
    """

    def __init__(
        self,
        config: SourceConfig,
        *,
        on_bad_tar: Callable[[str, DataError], object] | None = None,
    ) -> None:
        source = ShardSource(config, on_bad=on_bad_tar) if on_bad_tar else open_source(config)
        if not isinstance(source, PlacedSource):
            raise ConfigError(f"a source of kind {config.kind} cannot be indexed")
        self._source = source
        # Path -> rows that describe the image, each with the image's number within the row.
        self._rows: dict[str, list[tuple[int, int]]] = {}
        for row in range(len(source)):
            for number, place in enumerate(source.places(row)):
                self._rows.setdefault(place, []).append((row, number))
        self._entries = [Entry(place, self._stamp(rows)) for place, rows in self._rows.items()]

    @property
    def fingerprint(self) -> str:
        """Hash of the samples and their order."""
        return self._source.fingerprint

    def entries(self) -> Sequence[Entry]:
        """Return one entry per image, in the order of its first row."""
        return self._entries

    def annotation(self, entry: Entry) -> None:
        """Return None: the stamp changes when the text does."""

    def read(self, entry: Entry) -> Picture:
        """Read an image with the texts of all rows that describe it."""
        rows = self._rows[entry.path]
        samples = [self._source.read(row) for row, _ in rows]
        captions = list(dict.fromkeys(one for sample in samples for one in sample.captions))
        first = samples[0]
        questions = [
            {"question": sample.text, "answers": list(sample.answers)}
            for sample in samples
            if sample.text or sample.answers
        ]
        metadata = dict(first.metadata)
        if questions:
            metadata["questions"] = questions
        tags = [tag for sample in samples for tag in sample.labels]
        return Picture(
            path=entry.path,
            image=first.images[rows[0][1]],
            annotation=Annotation.of(captions, metadata, tags=tags),
            changed=modified_at(entry.path),
            stamp=entry.stamp,
        )

    def has_lost(self, path: str, stamp: str) -> bool:
        """Check whether the path belonged to this source; tars and tables are listed in full."""
        return self._source.owned(path, stamp)

    def _stamp(self, rows: Sequence[tuple[int, int]]) -> str:
        stamps = []
        for row, _ in rows:
            try:
                stamps.append(self._source.stamp(row))
            except DataError:
                # Reading the row reports the error.
                return ""
        return ",".join(stamps)


def _kinds(place: str) -> set[str]:
    """Return which of `files`, `videos`, `tars` and `table` a source may contain."""
    path = Path(place)
    suffix = path.suffix.lower()
    if not is_remote(place) and path.is_dir() and suffix != ".db":
        tars = any(not one.is_dir() for one in path.glob("*.tar"))
        return {"files", "videos", *(["tars"] if tars else [])}
    if suffix == ".tar" or any(one.endswith(".tar") for one in expand_braces(place)):
        return {"tars"}
    if suffix in _TABLE_KINDS:
        return {"table"}
    if suffix in PHOTO_SUFFIXES | VIDEO_SUFFIXES and is_remote(place):
        raise ConfigError(f"{place}: single URLs are not fetched; list them in a manifest")
    if not is_remote(place) and not path.exists():
        raise DataError(f"there is no file or folder {place}", reason="missing")
    if suffix in PHOTO_SUFFIXES | VIDEO_SUFFIXES:
        return {"files"} if suffix in PHOTO_SUFFIXES else {"videos"}
    advice = _WRONG_KINDS.get(
        suffix,
        "supported are folders, images, videos, .tar shards, and tables: "
        f"{', '.join(_TABLE_KINDS)}",
    )
    raise ConfigError(f"{place} cannot be indexed: {advice}")


def _can_read(source: VideoSource, given: Sequence[str]) -> bool:
    """Check whether there are readable videos; without `av`, videos in folders are skipped."""
    count = len(source.entries())
    if not count:
        return False
    if all(Path(path).is_dir() for path in given) and importlib.util.find_spec("av") is None:
        logger.warning(
            "%s videos are skipped: pip install 'coca-captioners[video]' to read them",
            f"{count:,}",
        )
        return False
    require("av", extra="video")
    return True
