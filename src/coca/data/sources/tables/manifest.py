"""Manifest source: a JSON-lines, CSV, TSV or Parquet table of images and their text."""

import os
from dataclasses import dataclass

from coca.core.files.local_files import file_etag
from coca.core.files.regular_files import MAX_IMAGE_BYTES
from coca.data.sources.base import register_source, single_path
from coca.data.sources.tables.columns import TableConfig, TableSource
from coca.data.storage.storage import Storage, full_path, is_remote
from coca.data.storage.url_policy import Reach


class _Files:
    """Image files by path or URL; relative paths start at the manifest's folder.

    Reading a path that the manifest may not name (`Reach`) raises `DataError`.
    """

    def __init__(self, folder: str, storage: Storage, reach: Reach) -> None:
        self._folder = folder
        self._storage = storage
        self._reach = reach

    def read(self, name: str) -> bytes:
        path = self._resolved(name)
        self._reach.check(path)
        return self._storage.read_all(path, max_bytes=MAX_IMAGE_BYTES)

    def path(self, name: str) -> str:
        return full_path(self._resolved(name))

    def etag(self, name: str) -> str:
        return file_etag(self._resolved(name))

    def _resolved(self, name: str) -> str:
        if is_remote(name) or os.path.isabs(name) or not self._folder:
            return name
        return f"{self._folder}/{name}"


@dataclass(frozen=True, kw_only=True)
class ManifestConfig(TableConfig):
    """Settings of a table of images."""

    kind: str = "manifest"


@register_source("manifest", ManifestConfig)
def manifest_source(config: ManifestConfig) -> TableSource:
    """Open a table whose rows are the samples.

    The image is a path (relative ones start at the manifest's folder), a URL, or, in Parquet,
    the file's bytes; a list of them is several images of one sample. URLs of this machine and of
    private networks, and schemes such as `file`, are read only from `read_from` (`Reach`). Columns
    have default names (see `coca.data.sources.tables.columns`) or those of the config. All other
    columns become metadata. The key is the column `key` or `id`, else the path.

    Raises:
        DataError: The manifest is missing, damaged, or has an unknown format.
        ConfigError: The first row has no image column, or no row matches `where`.
    """
    path, storage = single_path(config), Storage()
    folder = path.replace(os.sep, "/").rpartition("/")[0]
    files = _Files(folder, storage, Reach(path, config.read_from))
    return TableSource(storage.read_all(path), path, files, config)
