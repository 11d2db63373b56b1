"""Image-folder source with sidecar files (`.txt`, `.json`) or class folders."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from coca.core.annotations import SIDECAR_SUFFIXES, Sidecars, read_sidecars, split_record
from coca.core.errors import DataError
from coca.core.files.formats import IMAGE_SUFFIXES
from coca.core.files.local_files import file_etag, walk_files
from coca.core.files.regular_files import MAX_IMAGE_BYTES
from coca.data.sample import Sample
from coca.data.sources.base import SelectionConfig, register_source, single_path
from coca.data.sources.tables.selection import selected_rows
from coca.data.storage.storage import Storage


@dataclass(frozen=True, kw_only=True)
class FolderConfig(SelectionConfig):
    """Settings of an image folder."""

    kind: str = "folder"


@register_source("folder", FolderConfig)
class FolderSource:
    """All images below a folder, sorted by path; hidden files and folders are skipped.

    The sidecar files of an image have its captions, `label` or `labels`, and metadata, see
    `coca.core.annotations`. Without labels there, the topmost subfolder is the label:
    `ROOT/cat/1.jpg` has the label "cat". The key is the path without its suffix.

    Raises:
        DataError: The folder is missing, or the paths of two images differ only in the suffix.
        ConfigError: No image matches `where` and `part`.
    """

    block_size = 1

    def __init__(self, config: FolderConfig) -> None:
        self._root = single_path(config)
        if not os.path.isdir(self._root):
            raise DataError(
                f"{self._root} is no folder; for a table of files take `kind: manifest`, for tars "
                "`kind: shards`",
                reason="missing",
            )
        self._storage = Storage()
        self._images: list[str] = []
        self._sidecars: set[str] = set()
        digest = hashlib.sha256()
        for path, size in sized_files(self._root):
            suffix = os.path.splitext(path)[1]
            if suffix.lower() in IMAGE_SUFFIXES:
                self._images.append(path)
            elif suffix in SIDECAR_SUFFIXES:
                self._sidecars.add(path)
            else:
                continue
            digest.update(f"{path}\0{size}\0".encode("utf-8", "surrogateescape"))
        self._refuse_twins()
        rows = selected_rows(self.read_metadata, len(self._images), config)
        if rows is not None:
            self._images = [self._images[row] for row in rows]
            digest.update(rows.tobytes())
        self.fingerprint = digest.hexdigest()[:16]
        """Hash of the names and sizes of images and sidecars, and of the selected rows."""

    def __len__(self) -> int:
        return len(self._images)

    def key(self, row: int) -> str:
        """Return the path of the image in the folder, without its suffix."""
        return os.path.splitext(self._images[row])[0].replace(os.sep, "/")

    def read(self, row: int) -> Sample:
        """Read the sample in a row; `DataError` if a file is missing or a sidecar is damaged."""
        return replace(self.read_metadata(row), image=self._content(self._images[row]))

    def read_metadata(self, row: int) -> Sample:
        """Read the sample in a row without its image; `DataError` if a sidecar is damaged."""
        key = self.key(row)
        stem = os.path.splitext(self._images[row])[0]
        sidecars = Sidecars()
        # No file is opened for images that had no sidecar file when the folder was listed.
        if any(stem + suffix in self._sidecars for suffix in SIDECAR_SUFFIXES):
            sidecars = read_sidecars(os.path.join(self._root, self._images[row]))
        record_file = os.path.join(self._root, f"{stem}.json")
        _, labels, metadata = split_record(sidecars.fields, record_file)
        if not labels and "/" in key:
            labels = (key.partition("/")[0],)
        return Sample(key, b"", sidecars.captions, labels, metadata)

    def etag(self, row: int) -> str:
        """Return size and modification time of the image and of its sidecars."""
        stem = os.path.splitext(self._images[row])[0]
        sidecars = [f"{stem}{suffix}" for suffix in (".json", ".txt")]
        files = [self._images[row], *(file for file in sidecars if file in self._sidecars)]
        return " ".join(file_etag(os.path.join(self._root, file)) for file in files)

    def _content(self, path: str) -> bytes:
        return self._storage.read_all(os.path.join(self._root, path), max_bytes=MAX_IMAGE_BYTES)

    def _refuse_twins(self) -> None:
        previous = ""
        for row in range(len(self)):
            key = self.key(row)
            if key == previous:
                raise DataError(
                    f"{self._images[row - 1]} and {self._images[row]} in {self._root} share their "
                    "name, and so their captions; rename one of them",
                    reason="duplicate_key",
                )
            previous = key


def sized_files(root: str) -> Iterator[tuple[str, int]]:
    """Yield relative path and size (bytes) of each file, sorted by path."""
    for path in sorted(walk_files(root)):
        try:
            yield os.path.relpath(path, root), os.stat(path).st_size
        except FileNotFoundError:
            # A broken link is kept, so that reading it reports the error.
            yield os.path.relpath(path, root), -1
