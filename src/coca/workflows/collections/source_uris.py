"""Resolve the URIs of an index run to folders, images, videos, tars, tables and vectors files.

Each URI is interpreted here, once, by its name, suffix and kind of file. Later steps receive the
typed result and do not look at names again.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from coca.core.errors import ConfigError, DataError
from coca.core.files.absence import is_gone
from coca.core.files.formats import VIDEO_SUFFIXES
from coca.core.files.heif import PHOTO_SUFFIXES
from coca.data.sources.tables.table import SUFFIXES
from coca.data.storage.storage import expand_braces, full_path, is_remote
from coca.search.ingest.parquet import find_vectors

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


@dataclass(frozen=True)
class FolderUri:
    """Local folder; its images and videos are found recursively, its tars at the top only."""

    uri: str


@dataclass(frozen=True)
class MissingUri:
    """Local file or folder that no longer exists, whose records are to be removed."""

    uri: str


@dataclass(frozen=True)
class ImageUri:
    """Local image file."""

    uri: str


@dataclass(frozen=True)
class VideoUri:
    """Local video file."""

    uri: str


@dataclass(frozen=True)
class TarsUri:
    """Tar, or a pattern of tars with `*` and braces, local or remote."""

    uri: str


@dataclass(frozen=True)
class TableUri:
    """Table with one row per image, local or remote."""

    uri: str
    kind: str
    """Kind of its data source: `manifest` or `zip`."""


@dataclass(frozen=True)
class VectorsUri:
    """Vectors file of `coca embed-shards`, or a folder of them."""

    uri: str
    files: tuple[Path, ...]


SourceUri: TypeAlias = (
    FolderUri | MissingUri | ImageUri | VideoUri | TarsUri | TableUri | VectorsUri
)
"""Resolved URI of an index run."""


def resolve_uris(uris: Iterable[str | Path], *, allow_missing: bool = False) -> list[SourceUri]:
    """Resolve URIs by name, suffix and kind of file, without opening images, tars and tables.

    A URI that is given several times is resolved once.

    Args:
        uris: Paths, patterns and URLs.
        allow_missing: Resolve missing local files and folders to `MissingUri`, to prune them.

    Raises:
        DataError: A file or folder is missing, without `allow_missing`.
        ConfigError: A URI cannot be indexed; the message names the remedy.
    """
    distinct = {full_path(str(uri)): str(uri) for uri in uris}.values()
    return [
        MissingUri(uri) if allow_missing and _is_missing(uri) else resolve_uri(uri)
        for uri in distinct
    ]


def resolve_uri(uri: str | Path) -> SourceUri:
    """Resolve one URI, as `resolve_uris` does."""
    uri = str(uri)
    path, is_local = Path(uri), not is_remote(uri)
    suffix = path.suffix.lower()
    if is_local and (files := find_vectors(path)):
        return VectorsUri(uri, tuple(files))
    if is_local and path.is_dir() and suffix != ".db":
        return FolderUri(uri)
    if suffix == ".tar" or any(one.endswith(".tar") for one in expand_braces(uri)):
        return TarsUri(uri)
    if suffix in _TABLE_KINDS:
        return TableUri(uri, _TABLE_KINDS[suffix])
    if suffix in PHOTO_SUFFIXES | VIDEO_SUFFIXES and not is_local:
        raise ConfigError(f"{uri}: single URLs are not fetched; list them in a manifest")
    if is_local and not path.exists():
        raise DataError(f"there is no file or folder {uri}", reason="missing")
    if suffix in PHOTO_SUFFIXES:
        return ImageUri(uri)
    if suffix in VIDEO_SUFFIXES:
        return VideoUri(uri)
    advice = _WRONG_KINDS.get(
        suffix,
        "supported are folders, images, videos, .tar shards, and tables: "
        f"{', '.join(_TABLE_KINDS)}",
    )
    raise ConfigError(f"{uri} cannot be indexed: {advice}")


def _is_missing(uri: str) -> bool:
    return not is_remote(uri) and expand_braces(uri) == [uri] and "*" not in uri and is_gone(uri)


def vectors_files(resolved: Sequence[SourceUri]) -> list[Path]:
    """List the vectors files; empty if the URIs are images.

    Raises:
        ConfigError: Vectors and images are mixed.
    """
    vectors = [uri for uri in resolved if isinstance(uri, VectorsUri)]
    if vectors and len(vectors) < len(resolved):
        raise ConfigError(
            f"{vectors[0].uri} holds vectors, and other sources images: index them one after the "
            "other"
        )
    # A folder and a file in it may both be given.
    files = {os.path.realpath(file): file for uri in vectors for file in uri.files}
    return list(files.values())
