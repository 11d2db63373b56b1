"""Remote storage: object stores with obstore if it is installed, other URLs with fsspec.

obstore coalesces adjacent ranges and sends requests concurrently.
"""

import fnmatch
import importlib.util
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeAlias, runtime_checkable

from coca.core.errors import DataError

Range: TypeAlias = tuple[int, int]
"""Half-open byte interval [start, end)."""

OBJECT_STORES = frozenset(
    {"s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https"}
)


# Keys of ETag and time in the file systems of fsspec.
_ETAG_NAMES = ("ETag", "etag", "e_tag", "md5Hash", "Content-MD5", "Digest")
_TIME_NAMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")


@runtime_checkable
class Folder(Protocol):
    """A remote folder; names are relative to it."""

    def state(self, name: str) -> dict[str, int | str]:
        """Return the size `bytes` of a file, and its `etag` or time `modified` if available."""
        ...

    def read(self, name: str, ranges: Sequence[Range]) -> list[bytes]:
        """Read byte ranges of a file."""
        ...

    def match(self, pattern: str) -> list[str]:
        """List the files that match a pattern with `*`."""
        ...


def open_folder(url: str) -> Folder:
    """Open the folder at a URL; the result is thread-safe.

    Raises:
        DataError: The URL is malformed, or no installed package supports its scheme.
    """
    scheme = url.partition("://")[0]
    try:
        if scheme in OBJECT_STORES and importlib.util.find_spec("obstore"):
            return _ObjectStoreFolder(url)
        return _FsspecFolder(url)
    except Exception as error:
        # As with reading, each kind of store raises its own errors.
        what = str(error).partition("\n")[0]
        raise DataError(f"{url} cannot be opened: {what}", reason="unreachable") from error


def _state(size: int, etag: object, modified: object) -> dict[str, int | str]:
    if etag:
        return {"bytes": size, "etag": str(etag)}
    return {"bytes": size, "modified": str(modified)} if modified else {"bytes": size}


class _ObjectStoreFolder:
    def __init__(self, url: str) -> None:
        import obstore
        from obstore.store import from_url

        self._obstore = obstore
        self._store = from_url(
            url,
            client_options={"allow_http": url.startswith("http://")},
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=60)},
        )

    def state(self, name: str) -> dict[str, int | str]:
        head = self._obstore.head(self._store, name)
        # A server without a modification time yields the Unix epoch.
        modified = head["last_modified"] if head["last_modified"].timestamp() else ""
        return _state(int(head["size"]), head["e_tag"], modified)

    def read(self, name: str, ranges: Sequence[Range]) -> list[bytes]:
        starts, ends = zip(*ranges, strict=True)
        parts = self._obstore.get_ranges(self._store, name, starts=starts, ends=ends)
        return [bytes(part) for part in parts]

    def match(self, pattern: str) -> list[str]:
        listing = self._obstore.list_with_delimiter(self._store)
        names = (entry["path"].rpartition("/")[2] for entry in listing["objects"])
        return sorted(fnmatch.filter(names, pattern))


class _FsspecFolder:
    """A folder with fsspec, with one file system per thread, since only some are thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._of_thread = threading.local()
        self._opened()  # reject an invalid URL immediately

    def state(self, name: str) -> dict[str, int | str]:
        files, root = self._opened()
        info = files.info(f"{root}/{name}")
        etag, modified = (
            next((info[name] for name in names if info.get(name)), "")
            for names in (_ETAG_NAMES, _TIME_NAMES)
        )
        return _state(int(info["size"]), etag, modified)

    def read(self, name: str, ranges: Sequence[Range]) -> list[bytes]:
        files, root = self._opened()
        starts, ends = (list(bounds) for bounds in zip(*ranges, strict=True))
        parts = files.cat_ranges([f"{root}/{name}"] * len(ranges), starts, ends, on_error="raise")
        return [bytes(part) for part in parts]

    def match(self, pattern: str) -> list[str]:
        files, root = self._opened()
        return sorted(path.rpartition("/")[2] for path in files.glob(f"{root}/{pattern}"))

    def _opened(self) -> tuple[Any, str]:
        if not hasattr(self._of_thread, "opened"):
            import fsspec

            self._of_thread.opened = fsspec.core.url_to_fs(self._url)
        return self._of_thread.opened
