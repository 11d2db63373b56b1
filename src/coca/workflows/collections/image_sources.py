"""What a name on a command line stands for: files, videos, tars or tables, as sources."""

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.core.formats import VIDEO_SUFFIXES
from coca.core.heif import PHOTO_SUFFIXES
from coca.data.sources.base import PlacedSource, SourceConfig
from coca.data.sources.factory import open_source
from coca.data.sources.shards import ShardSource
from coca.data.sources.tables import SUFFIXES
from coca.data.storage.storage import expand_braces, full_path, is_remote
from coca.search.ingest.local_files import Annotation, Picture, changed_at
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
"""Seconds from one frame of a video to the next, unless told otherwise."""

_TABLE_KINDS = dict.fromkeys(SUFFIXES, "manifest") | {".zip": "zip"}
"""Suffix of a place -> kind of the source that reads it."""
TABLE_SUFFIXES = frozenset(_TABLE_KINDS)
"""Of files with a row for each image, which may hold the images themselves."""

_WRONG_KINDS = {
    ".json": "a manifest has one JSON object a line: write it as .jsonl, or as .csv or .parquet",
    ".npy": "vectors alone do not tell whose they are; name the images themselves",
    ".db": "that is where a collection lies; name the images to put into it, and the place by "
    "--uri",
    ".gz": "compressed tars cannot be read at any place; unpack it to a .tar",
    ".tgz": "compressed tars cannot be read at any place; unpack it to a .tar",
    ".zst": "compressed tars cannot be read at any place; unpack it to a .tar",
    ".txt": "a list of files is read as a manifest: a .csv whose first line is `image`",
    ".idx": "that is the index of a tar; name the tar",
}


def sources_of(
    places: Sequence[str | Path], *, every_s: float = EVERY_S, read_from: Sequence[str] = ()
) -> list[PictureSource | SeriesSource]:
    """The sources that folders, files, patterns and URLs stand for, of several kinds together.

    A tar or table that cannot be read as a whole does not stop the others: it becomes an
    `UnreadableFile`, whose one entry is reported as bad.

    Args:
        places: Folders of images, videos or tars, single files, tars (with `*` and braces, also
            behind URLs), manifests (JSON lines, CSV, Parquet), and zips with images and a table.
        every_s: Seconds from one frame of a video to the next; 0 leaves videos out.
        read_from: What tables may name besides; see `SourceConfig.read_from`.

    Raises:
        DataError: A place is missing, or none can be read.
        ConfigError: A place holds nothing that can be indexed; the message says what to do.
        MissingExtraError: A video is named, and the extra `video` is not installed.
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
    """Refuse what `sources_of` would refuse, as far as names and suffixes tell.

    Raises:
        DataError: A place is missing.
        ConfigError: A place holds nothing that can be indexed.
    """
    for place in places:
        _kinds(str(place))


def check_filled(
    places: Sequence[str | Path], sources: Sequence[AnySource], *, prune: bool = False
) -> None:
    """Refuse places in which there is nothing; warn of a folder in which there is nothing.

    Args:
        places: As they were given.
        sources: Of these places.
        prune: Say how to remove what was in the places; that of a folder is warned of elsewhere.

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
    """A tar or table that cannot be read as a whole: one entry, whose reading fails.

    Attributes:
        fault: Why.
    """

    def __init__(self, path: str, fault: DataError) -> None:
        self.fault = fault
        self._entry = Entry(full_path(path), "")

    def entries(self) -> Sequence[Entry]:
        """The file."""
        return [self._entry]

    def annotation(self, entry: Entry) -> None:
        """Nothing."""

    def read(self, entry: Entry) -> Picture:
        """Raises the fault."""
        raise self.fault

    def has_lost(self, path: str, stamp: str) -> bool:
        """Never: nothing tells what it holds."""
        return False


class SampleSource:
    """A source of training samples as a source of images.

    Labels become tags; further captions, and questions with their answers, become metadata.

    Args:
        config: Of the source.
        on_bad_tar: Of a source of tars: called for each that cannot be read, which is left out.

    Raises:
        DataError: It cannot be read.
        ConfigError: It has no images that can be followed over time.
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
        # Place -> each row that describes its image, and the image's number within the row.
        self._rows: dict[str, list[tuple[int, int]]] = {}
        for row in range(len(source)):
            for number, place in enumerate(source.places(row)):
                self._rows.setdefault(place, []).append((row, number))
        self._entries = [Entry(place, self._stamp(rows)) for place, rows in self._rows.items()]

    @property
    def fingerprint(self) -> str:
        """Changes when the samples or their order do."""
        return self._source.fingerprint

    def entries(self) -> Sequence[Entry]:
        """An image each, in the order of its first row."""
        return self._entries

    def annotation(self, entry: Entry) -> None:
        """Nothing apart: the stamp changes when the words do."""

    def read(self, entry: Entry) -> Picture:
        """The image with the words of all rows that describe it."""
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
        if len(captions) > 1:
            metadata["captions"] = captions
        if questions:
            metadata["questions"] = questions
        tags = [tag for sample in samples for tag in sample.labels]
        return Picture(
            path=entry.path,
            image=first.images[rows[0][1]],
            annotation=Annotation.of(captions[0] if captions else "", metadata, tags=tags),
            changed=changed_at(entry.path),
            stamp=entry.stamp,
        )

    def has_lost(self, path: str, stamp: str) -> bool:
        """Whether it would be here: a tar that is there is known in full, as is a table."""
        return self._source.owned(path, stamp)

    def _stamp(self, rows: Sequence[tuple[int, int]]) -> str:
        stamps = []
        for row, _ in rows:
            try:
                stamps.append(self._source.stamp(row))
            except DataError:
                # Reading it will tell.
                return ""
        return ",".join(stamps)


def _kinds(place: str) -> set[str]:
    """Which of `files`, `videos`, `tars` and `table` a place may hold."""
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
        f"right are folders, images, videos, .tar shards, and tables: {', '.join(_TABLE_KINDS)}",
    )
    raise ConfigError(f"{place} cannot be indexed: {advice}")


def _can_read(source: VideoSource, given: Sequence[str]) -> bool:
    """Whether there are videos that can be read; a folder of photos may well hold some that not."""
    count = len(source.entries())
    if not count:
        return False
    if all(Path(path).is_dir() for path in given) and importlib.util.find_spec("av") is None:
        logger.warning(
            "%s videos are left out: pip install 'coca-captioners[video]' brings what reads them",
            f"{count:,}",
        )
        return False
    require("av", extra="video")
    return True
