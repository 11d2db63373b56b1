"""Sources of `coca index`: each URI resolved once: images, videos, tars, tables, vectors.

Each URI is interpreted here, once, by its name, suffix and kind of file. Later steps receive the
typed result and do not look at names again.
"""

import importlib.util
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from coca.core.annotations import SIDECAR_SUFFIXES, XMP_SUFFIX
from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.core.files.formats import PHOTO_SUFFIXES, RAW_SUFFIXES, VIDEO_SUFFIXES
from coca.core.files.local_files import check_spaces, is_gone, modified_at
from coca.core.installation import pip_install
from coca.data.sources.factory import open_source
from coca.data.sources.source import PathSource, Source, SourceConfig
from coca.data.sources.table import SUFFIXES
from coca.data.sources.table_source import ManifestConfig
from coca.data.sources.tar.shards import ShardsConfig, ShardSource
from coca.data.sources.zip_archive import ZipConfig
from coca.data.storage.storage import expand_braces, full_path, is_remote
from coca.processing.image_file import DECODERS
from coca.search.ingest.parquet import find_vectors
from coca.search.ingest.photo_metadata import Annotation
from coca.search.ingest.sources import (
    AnySource,
    Entry,
    FileSource,
    SourceImage,
    empty_folders,
    find_files,
)
from coca.workflows.collections.video_source import VideoSource, live_photo_of

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal[
    "folder", "missing", "image", "video", "tars", "manifest", "zip", "vectors"
]
_TABLE_KINDS: Mapping[str, Kind] = {**dict.fromkeys(SUFFIXES, "manifest"), ".zip": "zip"}
"""File suffix to kind of the source that reads it."""
TABLE_SUFFIXES = frozenset(_TABLE_KINDS)
"""Suffixes of files with one row per image, which may contain the images."""

STORE_SUFFIXES = (".db", ".db-wal", ".db-shm", ".db-journal")
"""Suffixes of the files of a SQLite store, which may be in a folder of images."""

_WRONG_KINDS = {
    ".json": "a manifest has one JSON object per line: write it as .jsonl, or as .csv or .parquet",
    ".npy": "vectors alone do not identify their images; name the images themselves",
    ".db": "it is a collection; name the images to index, and pass the collection with --uri",
    ".txt": "a list of files is read as a manifest: a .csv whose first line is `image`",
    ".idx": "that is the index of a tar; name the tar",
} | dict.fromkeys(
    (".gz", ".tgz", ".zst"), "compressed tars have no random access; unpack it to a .tar"
)


@dataclass(frozen=True)
class SourceUri:
    """Resolved URI of an index run."""

    uri: str
    kind: Kind
    """`folder`: local, with images and videos found recursively, and tars at the top only;
    `missing`: local file or folder that no longer exists, whose records are to be removed; `image`:
    local file, or one that the decoder of a plug-in turns into an image; `video`: local file;
    `tars`: a tar, or a pattern with `*` and braces, local or remote; `manifest`, `zip`: table with
    one row per image, local or remote; `vectors`: Parquet file of embedded records, or a folder of
    them."""
    files: tuple[Path, ...] = ()
    """Files of vectors."""


def uris_of(resolved: Iterable[SourceUri], *kinds: Kind) -> list[str]:
    """List the URIs of these kinds."""
    return [source.uri for source in resolved if source.kind in kinds]


def resolve_uris(uris: Iterable[str | Path], *, allow_missing: bool = False) -> list[SourceUri]:
    """Resolve URIs by name, suffix and kind of file, without opening images, tars and tables.

    A URI that is given several times is resolved once.
    """
    given = [*map(str, uris)]
    check_spaces(given)
    distinct = {full_path(uri): uri for uri in given}.values()
    return [
        SourceUri(uri, "missing") if allow_missing and _is_missing(uri) else resolve_uri(uri)
        for uri in distinct
    ]


def resolve_uri(uri: str | Path) -> SourceUri:
    """Resolve one URI, as `resolve_uris` does."""
    uri = str(uri)
    path, is_local = Path(uri), not is_remote(uri)
    suffix = path.suffix.lower()
    if is_local and (files := find_vectors(path)):
        return SourceUri(uri, "vectors", tuple(files))
    if is_local and path.is_dir() and suffix != ".db":
        return SourceUri(uri, "folder")
    if suffix == ".tar" or any(name.endswith(".tar") for name in expand_braces(uri)):
        return SourceUri(uri, "tars")
    if suffix in _TABLE_KINDS:
        return SourceUri(uri, _TABLE_KINDS[suffix])
    if suffix in PHOTO_SUFFIXES | VIDEO_SUFFIXES and not is_local:
        raise ConfigError(f"{uri}: single URLs are not fetched; list them in a manifest")
    if is_local and not path.exists():
        raise DataError(f"{uri} does not exist", reason="missing")
    if suffix in PHOTO_SUFFIXES or suffix in DECODERS.names():
        return SourceUri(uri, "image")
    if suffix in VIDEO_SUFFIXES:
        return SourceUri(uri, "video")
    advice = _WRONG_KINDS.get(
        suffix,
        "supported are folders, images, videos, .tar shards, and tables: "
        f"{', '.join(_TABLE_KINDS)}",
    )
    raise ConfigError(f"{uri} cannot be indexed: {advice}")


def _is_missing(uri: str) -> bool:
    return not is_remote(uri) and expand_braces(uri) == [uri] and "*" not in uri and is_gone(uri)


def vectors_files(resolved: Sequence[SourceUri]) -> list[Path]:
    """List the vectors files; empty if the URIs are images."""
    vectors = [uri for uri in resolved if uri.kind == "vectors"]
    if vectors and len(vectors) < len(resolved):
        raise ConfigError(
            f"{vectors[0].uri} has vectors, and other sources images: index them one after the "
            "other"
        )
    # A folder and a file in it may both be given.
    files = {os.path.realpath(file): file for uri in vectors for file in uri.files}
    return list(files.values())


FRAME_INTERVAL_S = 5.0
"""Default interval between the frames of a video, in seconds."""


def open_sources(
    uris: Sequence[SourceUri],
    *,
    frame_interval_s: float = FRAME_INTERVAL_S,
    read_from: Sequence[str] = (),
    within: Sequence[Path] = (),
) -> list[AnySource]:
    """Open resolved URIs of mixed kinds as sources of images.

    A tar or table that is unreadable as a whole does not stop the others. It becomes an
    `UnreadableFile`, whose single entry is reported as bad.
    """
    if files := vectors_files(uris):
        raise ConfigError(f"{files[0]} contains vectors and no images: call `index_images`")
    sources: list[AnySource] = []
    paths, missing = uris_of(uris, "folder", "image"), uris_of(uris, "missing")
    if paths or missing:
        sources.append(FileSource(paths, missing=missing, within=within))
    sources += _open_videos(uris, frame_interval_s, within)
    unreadable: list[UnreadableFile] = []
    if tars := [one.uri for one in uris if one.kind == "tars" or _has_tars(one)]:
        shards = SampleSource(
            ShardsConfig(path=tuple(tars)),
            on_bad_tar=lambda tar, error: unreadable.append(UnreadableFile(tar, error)),
            within=within,
        )
        if shards.entries() or not unreadable:
            sources.append(shards)
    for table in uris_of(uris, "manifest", "zip"):
        try:
            kind = ZipConfig if Path(table).suffix.lower() == ".zip" else ManifestConfig
            sources.append(SampleSource(kind(path=table, read_from=tuple(read_from))))
        except DataError as error:
            if not is_remote(table) and not os.path.exists(table):
                raise
            unreadable.append(UnreadableFile(table, error))
    if unreadable and not sources:
        raise unreadable[0].fault
    return [*sources, *unreadable]


_IS_MOTION = "is the motion of a Live Photo, of which the photo is indexed instead: index {}"


def check_filled(
    uris: Sequence[SourceUri], sources: Sequence[AnySource], *, prune: bool = False
) -> None:
    """Check that the sources have entries, and warn about empty folders and left out videos."""
    videos = uris_of(uris, "video")
    motions = {video: photo for video in videos if (photo := live_photo_of(video))}
    if len(motions) == len(uris):
        video, photo = next(iter(motions.items()))
        raise DataError(f"{video} {_IS_MOTION.format(photo)}", reason="missing")
    if not any(source.entries() for source in sources):
        if skipped := [video for video in videos if video not in motions]:
            raise DataError(
                f"{skipped[0]} is a video, and a frame interval of 0 skips videos: set it above 0",
                reason="missing",
            )
        raise DataError(
            f"there is nothing to index in {', '.join(source.uri for source in uris)}: no image "
            f"({', '.join(sorted(PHOTO_SUFFIXES - RAW_SUFFIXES))}), raw photo, video or .tar is "
            "there"
            + ("; add --yes to remove its records if its drive is mounted" if prune else ""),
            reason="missing",
        )
    entries = {entry.path for source in sources for entry in source.entries()} if motions else ()
    for video, photo in motions.items():
        if os.path.abspath(photo) not in entries:
            logger.warning("%s %s", video, _IS_MOTION.format(photo))
    for folder in [] if prune else empty_folders(uris_of(uris, "folder"), sources):
        logger.warning("there is nothing to index in %s", folder)


@dataclass(frozen=True)
class UnreadableFile:
    """A tar or table that is unreadable as a whole: one entry, whose `read` raises."""

    path: str
    fault: DataError

    def entries(self) -> Sequence[Entry]:
        """Return the file as the only entry."""
        return [Entry(full_path(self.path), "")]

    def annotation(self, entry: Entry) -> None:
        """Return None: there is no text."""

    def read(self, entry: Entry) -> SourceImage:
        """Raise the error."""
        raise self.fault

    def has_lost(self, path: str, etag: str) -> bool:
        """Return False, since the content is unknown."""
        return False


class SampleSource:
    """Adapter from a source of training samples to a source of images.

    Labels become tags. Further captions, and questions with their answers, become metadata.

    Args:
        config: Configuration of the source.
        on_bad_tar: Called for each unreadable tar, which is skipped; for sources of tars, which are
            then read once also if several paths name them.
        within: Folders that tars must be in after links are resolved; empty: anywhere.
    """

    def __init__(
        self,
        config: SourceConfig,
        *,
        on_bad_tar: Callable[[str, DataError], object] | None = None,
        within: Sequence[Path] = (),
    ) -> None:
        source: Source
        if on_bad_tar is not None and isinstance(config, ShardsConfig):
            source = ShardSource(
                config, checksums=True, on_bad=on_bad_tar, allow_overlap=True, within=within
            )
        else:
            source = open_source(config)
        if not isinstance(source, PathSource):
            raise ConfigError(f"a source of kind {config.kind} cannot be indexed")
        self._source = source
        # Path -> rows that describe the image, each with the image's number within the row.
        self._rows: dict[str, list[tuple[int, int]]] = {}
        for row in range(len(source)):
            for number, path in enumerate(source.paths(row)):
                self._rows.setdefault(path, []).append((row, number))
        self._entries = [Entry(path, self._etag(rows)) for path, rows in self._rows.items()]

    @property
    def fingerprint(self) -> str:
        """Hash of the samples and their order."""
        return self._source.fingerprint

    def entries(self) -> Sequence[Entry]:
        """Return one entry per image, in the order of its first row."""
        return self._entries

    def annotation(self, entry: Entry) -> None:
        """Return None: the etag changes when the text does."""

    def read(self, entry: Entry) -> SourceImage:
        """Read an image with the texts of all rows that describe it."""
        rows = self._rows[entry.path]
        samples = [self._source.read(row) for row, _ in rows]
        captions = list(dict.fromkeys(caption for sample in samples for caption in sample.captions))
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
        return SourceImage(
            path=entry.path,
            data=first.images[rows[0][1]],
            annotation=Annotation.of(captions, metadata, tags=tags),
            modified_at=modified_at(entry.path),
            etag=entry.etag,
        )

    def has_lost(self, path: str, etag: str) -> bool:
        """Check whether the path belonged to this source; tars and tables are listed in full."""
        return self._source.owned(path, etag)

    def _etag(self, rows: Sequence[tuple[int, int]]) -> str:
        etags = []
        for row, _ in rows:
            try:
                etags.append(self._source.etag(row))
            except DataError:
                # Reading the row reports the error.
                return ""
        return ",".join(etags)


def _has_tars(uri: SourceUri) -> bool:
    """Return whether the URI is a folder with tars, which may be folders by name only."""
    return uri.kind == "folder" and any(not tar.is_dir() for tar in Path(uri.uri).glob("*.tar"))


def _open_videos(
    uris: Sequence[SourceUri], frame_interval_s: float, within: Sequence[Path]
) -> list[AnySource]:
    """Open the videos, if there are any; without `av`, those in folders are skipped."""
    folders, videos = uris_of(uris, "folder"), uris_of(uris, "video")
    if not (frame_interval_s and find_files([*folders, *videos], VIDEO_SUFFIXES, warn=False)):
        return []
    source = VideoSource([*folders, *videos], frame_interval_s=frame_interval_s, within=within)
    if not (count := len(source.entries())):
        return []
    if not videos and importlib.util.find_spec("av") is None:
        logger.warning(
            "%s videos are skipped; what reads them: %s", f"{count:,}", pip_install("video")
        )
        return []
    require("av", extra="video")
    return [source]


# Files of folders that are skipped: their number by suffix, and a remedy for each kind.


LINK = "links to folders"
"""Key of linked folders, next to the suffixes."""

_RAW = frozenset({".3fr", ".crw", ".dcr", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw"}) | {
    ".nrw",
    ".pef",
    ".raw",
    ".rwl",
    ".sr2",
    ".srf",
    ".srw",
    ".x3f",
}
"""Raw photos that are not read."""
_IMAGES = (
    frozenset({".ai", ".cdr", ".cin", ".dds", ".eps", ".exr", ".fit", ".fits", ".hdr"})
    | {".icns", ".ico", ".jp2", ".jpe", ".jfif", ".jxl", ".kra", ".pcx", ".pbm"}
    | {".pgm", ".pnm", ".ppm", ".psb", ".psd", ".qoi", ".svg", ".svgz", ".tga", ".xcf", ".xpm"}
)
_ARCHIVES = frozenset({".7z", ".bz2", ".gz", ".rar", ".tgz", ".xz", ".zst"})
_TABLES = TABLE_SUFFIXES - {".zip"}
_KINDS: Sequence[tuple[frozenset[str], str]] = (
    (_RAW, "raw photos: index JPEG copies of them"),
    (_IMAGES, "images of other formats: convert them to JPEG or PNG"),
    (frozenset({".tar"}), "tars below the top of the folder: pass them by name"),
    (frozenset({".zip"}), "zips: pass those with a table by name, and unpack the others"),
    (_ARCHIVES, "archives: unpack them"),
    (_TABLES, "tables: pass those that list images by name"),
    (frozenset({LINK}), "pass the linked folders by name"),
)
_MEDIA = PHOTO_SUFFIXES | VIDEO_SUFFIXES
_TAKEN = _MEDIA | frozenset(SIDECAR_SUFFIXES) | {XMP_SUFFIX, ".idx", *STORE_SUFFIXES}
_MOST_SUFFIXES = 6


def skipped_files(uris: Iterable[SourceUri]) -> dict[str, int]:
    """Count the skipped files of the folders among the URIs; suffix in lower case -> count.

    Sidecar files, hidden files, files of SQLite stores, and raw photos next to a photo of the same
    name are not counted. Images and videos whose package is not installed are reported where they
    are searched.
    """
    counts: Counter[str] = Counter()
    tops = {os.path.abspath(uri) for uri in uris_of(uris, "folder")}
    passed = {os.path.abspath(uri.uri) for uri in uris} - tops
    seen: set[str] = set()
    for top in sorted(tops):
        for here, folders, names in os.walk(top):
            if here in seen:
                folders.clear()
                continue
            seen.add(here)
            visible = [os.path.join(here, name) for name in folders if not name.startswith(".")]
            links = [path for path in visible if os.path.islink(path)]
            counts[LINK] += sum(os.path.realpath(path) not in tops for path in links)
            folders[:] = [os.path.basename(path) for path in visible if path not in links]
            parts = {name: os.path.splitext(name) for name in names}
            photos = {stem for stem, suffix in parts.values() if suffix.lower() in PHOTO_SUFFIXES}
            for name, (stem, suffix) in parts.items():
                suffix = suffix.lower()
                is_read = suffix in _TAKEN or (suffix == ".tar" and here in tops)
                is_read |= suffix in _RAW and stem in photos
                if not (name.startswith(".") or is_read or os.path.join(here, name) in passed):
                    counts[suffix] += 1
    return dict(sorted((+counts).items()))


def describe_skipped(counts: Mapping[str, int]) -> list[str]:
    """Describe skipped files in one sentence for each kind, with the remedy."""
    known = {suffix for suffixes, _ in _KINDS for suffix in suffixes}
    sentences = [
        f"skipped {listed}: {remedy}"
        for suffixes, remedy in _KINDS
        if (listed := _listed({name: counts[name] for name in counts.keys() & suffixes}))
    ]
    others = {name: count for name, count in counts.items() if name not in known}
    if others:
        sentences.append(f"skipped {_listed(others)}: no images, videos or tars")
    return sentences


def _listed(counts: Mapping[str, int]) -> str:
    """List counts by suffix, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in ordered]
    more = sum(count for _, count in ordered[_MOST_SUFFIXES:])
    return ", ".join([*named[:_MOST_SUFFIXES], *([f"{more:,} others"] if more else [])])
