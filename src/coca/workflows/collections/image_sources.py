"""Sources of `coca index`: each URI resolved once: images, videos, tars, tables, vectors.

Each URI is interpreted here, once, by its name, suffix and kind of file. Later steps receive the
typed result and do not look at names again.
"""

import importlib.util
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.core.files.formats import PHOTO_SUFFIXES, RAW_SUFFIXES, VIDEO_SUFFIXES
from coca.core.files.local_files import check_spaces, is_gone
from coca.core.installation import pip_install
from coca.data.sources.factory import open_source
from coca.data.sources.table import SUFFIXES
from coca.data.sources.table_source import ManifestConfig
from coca.data.sources.tar.shards import ShardsConfig, ShardSource
from coca.data.sources.zip_archive import ZipConfig
from coca.data.storage.storage import expand_braces, full_path, is_remote
from coca.processing.image_file import DECODERS
from coca.search.ingest.parquet import find_vectors
from coca.search.ingest.sample_source import SampleSource, UnreadableFile
from coca.search.ingest.sources import FileSource, ImageSource, empty_folders
from coca.search.ingest.video_source import VideoSource, live_photo_of

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
    resolved = []
    for uri in {full_path(uri): uri for uri in given}.values():
        is_name = not is_remote(uri) and expand_braces(uri) == [uri] and "*" not in uri
        is_missing = allow_missing and is_name and is_gone(uri)
        resolved.append(SourceUri(uri, "missing") if is_missing else resolve_uri(uri))
    return resolved


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
) -> list[ImageSource]:
    """Open resolved URIs of mixed kinds as sources of images.

    A tar or table that is unreadable as a whole does not stop the others. It becomes an
    `UnreadableFile`, whose single entry is reported as bad.
    """
    if files := vectors_files(uris):
        raise ConfigError(f"{files[0]} contains vectors and no images: call `index_images`")
    sources: list[ImageSource] = []
    paths, missing = uris_of(uris, "folder", "image"), uris_of(uris, "missing")
    if paths or missing:
        sources.append(FileSource(paths, missing=missing))
    sources += _open_videos(uris, frame_interval_s)
    unreadable: list[UnreadableFile] = []
    if tars := [one.uri for one in uris if one.kind == "tars" or _has_tars(one)]:
        shards = SampleSource(
            ShardSource(
                ShardsConfig(path=tuple(tars)),
                checksums=True,
                on_bad=lambda tar, error: unreadable.append(UnreadableFile(tar, error)),
                allow_overlap=True,
            )
        )
        if shards.entries() or not unreadable:
            sources.append(shards)
    for table in uris_of(uris, "manifest", "zip"):
        try:
            kind = ZipConfig if Path(table).suffix.lower() == ".zip" else ManifestConfig
            config = kind(path=table, read_from=tuple(read_from))
            sources.append(SampleSource(open_source(config)))
        except DataError as error:
            if not is_remote(table) and not os.path.exists(table):
                raise
            unreadable.append(UnreadableFile(table, error))
    if unreadable and not sources:
        raise unreadable[0].fault
    return [*sources, *unreadable]


_IS_MOTION = "is the motion of a Live Photo, of which the photo is indexed instead: index {}"


def check_filled(
    uris: Sequence[SourceUri], sources: Sequence[ImageSource], *, prune: bool = False
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


def _has_tars(uri: SourceUri) -> bool:
    """Return whether the URI is a folder with tars, which may be folders by name only."""
    return uri.kind == "folder" and any(not tar.is_dir() for tar in Path(uri.uri).glob("*.tar"))


def _open_videos(uris: Sequence[SourceUri], frame_interval_s: float) -> list[ImageSource]:
    """Open the videos, if there are any; without `av`, those in folders are skipped."""
    folders, videos = uris_of(uris, "folder"), uris_of(uris, "video")
    if not frame_interval_s:
        return []
    source = VideoSource([*folders, *videos], frame_interval_s=frame_interval_s)
    if not (count := len(source.entries())):
        return []
    if not videos and importlib.util.find_spec("av") is None:
        logger.warning(
            "%s videos are skipped; what reads them: %s", f"{count:,}", pip_install("video")
        )
        return []
    require("av", extra="video")
    return [source]
