"""Image sources of indexing: open folders, files, videos, tars and tables."""

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.core.files.heif import PHOTO_SUFFIXES
from coca.core.files.local_files import modified_at
from coca.data.sources.base import PathSource, Source, SourceConfig
from coca.data.sources.factory import open_source
from coca.data.sources.tables.manifest import ManifestConfig
from coca.data.sources.tar.shards import ShardsConfig, ShardSource
from coca.data.sources.zip_archive import ZipConfig
from coca.data.storage.storage import full_path, is_remote
from coca.search.ingest.sources.base import AnySource, Entry, FileSource, empty_folders
from coca.search.ingest.sources.images import Annotation, SourceImage
from coca.workflows.collections.source_uris import (
    FolderUri,
    ImageUri,
    MissingUri,
    SourceUri,
    TableUri,
    TarsUri,
    VideoUri,
    vectors_files,
)
from coca.workflows.collections.video_source import VideoSource

logger = logging.getLogger(__name__)

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

    Args:
        uris: Resolved by `resolve_uris`.
        frame_interval_s: Interval between the frames of a video, in seconds; 0 skips videos.
        read_from: URL prefixes and folders that tables may reference; see
            `ManifestConfig.read_from`.
        within: Folders that the files of folders must be in after links are resolved; empty: links
            may lead anywhere.

    Raises:
        DataError: A source is missing, or none can be read.
        ConfigError: A source cannot be indexed, such as vectors.
        MissingExtraError: A video is given, and the extra `video` is not installed.
    """
    if files := vectors_files(uris):
        raise ConfigError(f"{files[0]} holds vectors and no images: call `index_vectors`")
    sources: list[AnySource] = []
    files_and_folders = [one.uri for one in uris if isinstance(one, FolderUri | ImageUri)]
    missing = [one.uri for one in uris if isinstance(one, MissingUri)]
    if files_and_folders or missing:
        sources.append(FileSource(files_and_folders, missing=missing, within=within))
    if frame_interval_s and (videos := _open_videos(uris, frame_interval_s, within)):
        sources.append(videos)
    unreadable: list[UnreadableFile] = []
    if tars := [one.uri for one in uris if isinstance(one, TarsUri) or _has_tars(one)]:
        shards = SampleSource(
            ShardsConfig(path=tuple(tars)),
            on_bad_tar=lambda tar, error: unreadable.append(UnreadableFile(tar, error)),
            within=within,
        )
        if shards.entries() or not unreadable:
            sources.append(shards)
    for table in (one for one in uris if isinstance(one, TableUri)):
        try:
            sources.append(_open_table(table, read_from))
        except DataError as error:
            if not is_remote(table.uri) and not os.path.exists(table.uri):
                raise
            unreadable.append(UnreadableFile(table.uri, error))
    if unreadable and not sources:
        raise unreadable[0].fault
    return [*sources, *unreadable]


def check_filled(
    uris: Sequence[SourceUri], sources: Sequence[AnySource], *, prune: bool = False
) -> None:
    """Check that the sources have entries, and warn about each empty folder.

    Args:
        uris: Resolved URIs.
        sources: Sources of `uris`.
        prune: Add a hint to the error on how to prune the records. Pruning warns about empty
            folders itself.

    Raises:
        DataError: No source has an entry.
    """
    if not any(source.entries() for source in sources):
        raise DataError(
            f"there is nothing to index in {', '.join(one.uri for one in uris)}: no image "
            f"({', '.join(sorted(PHOTO_SUFFIXES))}), video or .tar is there"
            + ("; add --yes to remove its records if its drive is mounted" if prune else ""),
            reason="missing",
        )
    folders = [one.uri for one in uris if isinstance(one, FolderUri)]
    for folder in [] if prune else empty_folders(folders, sources):
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

    Raises:
        DataError: The source cannot be read.
        ConfigError: The source has no stable paths of its images.
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
            source = ShardSource(config, on_bad=on_bad_tar, allow_overlap=True, within=within)
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
    return isinstance(uri, FolderUri) and any(
        not tar.is_dir() for tar in Path(uri.uri).glob("*.tar")
    )


def _open_videos(
    uris: Sequence[SourceUri], frame_interval_s: float, within: Sequence[Path]
) -> VideoSource | None:
    """Open the videos, if there are any; without `av`, videos in folders are skipped."""
    source = VideoSource(
        [one.uri for one in uris if isinstance(one, FolderUri | VideoUri)],
        frame_interval_s=frame_interval_s,
        within=within,
    )
    count = len(source.entries())
    if not count:
        return None
    are_named = any(isinstance(one, VideoUri) for one in uris)
    if not are_named and importlib.util.find_spec("av") is None:
        logger.warning(
            "%s videos are skipped: pip install 'coca-captioners[video]' to read them",
            f"{count:,}",
        )
        return None
    require("av", extra="video")
    return source


def _open_table(table: TableUri, read_from: Sequence[str]) -> SampleSource:
    config_class = ZipConfig if table.kind == "zip" else ManifestConfig
    return SampleSource(config_class(path=table.uri, read_from=tuple(read_from)))
