"""Remote files: byte ranges of object stores and web servers with obstore.

obstore reads all schemes below without further packages, merges close ranges into one request,
sends the others concurrently, and may be called by several threads. The figures by which it was
chosen are in docs/data.md.
"""

import fnmatch
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeAlias
from urllib.parse import unquote

from coca.core.errors import DataError

Range: TypeAlias = tuple[int, int]
"""Half-open byte interval [start, end)."""

WEB = frozenset({"http", "https"})
OBJECT_STORES = WEB | {"s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"}
_SCHEMES = OBJECT_STORES | {"file"}
_FORMS = {"http": "http://HOST/PATH", "https": "https://HOST/PATH", "file": "file:///PATH"}

_owner: int | None = None
"""Process that read the first remote file, and runs obstore's threads."""


def split_url(url: str) -> tuple[str, str]:
    """Split a URL into its folder and a name in it.

    A web address with a query or an encoded slash is a folder whose only file has an empty name,
    since obstore's paths contain neither.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        known = ", ".join(sorted(_SCHEMES))
        raise DataError(
            f"{url} cannot be opened: its scheme must be one of {known}, got {scheme!r}",
            reason="unreachable",
        )
    if scheme in WEB and ("?" in rest or "%2f" in rest.lower()):
        return url, ""
    parent, slash, name = rest.rpartition("/")
    if not slash or rest.startswith("/") != (scheme == "file"):
        raise DataError(
            f"{url} cannot be opened: it must be {_FORMS.get(scheme, scheme + '://BUCKET/PATH')}",
            reason="unreachable",
        )
    return f"{scheme}://{parent}", name


def open_folder(url: str) -> "RemoteFolder":
    """Open a folder, as `split_url` returns it."""
    try:
        return RemoteFolder(url)
    except Exception as error:
        # As with reading, each kind of store raises its own errors.
        what = str(error).partition("\n")[0]
        raise DataError(f"{url} cannot be opened: {what}", reason="unreachable") from error


def check_fork(url: str) -> None:
    """Reject reads in a fork: obstore's threads do not exist there, and reads never return."""
    global _owner
    _owner = _owner or os.getpid()
    if _owner != os.getpid():
        raise DataError(
            f"{url} cannot be read in a fork of a process that has read remote files; start the "
            "process with 'spawn' or 'forkserver'",
            reason="unreachable",
        )


class RemoteFolder:
    """A remote folder; names are relative to it. Thread-safe."""

    def __init__(self, url: str) -> None:
        import obstore
        from obstore.store import HTTPStore, LocalStore, from_url

        self._obstore = obstore
        scheme = url.partition("://")[0]
        # Web addresses are percent-encoded, and obstore encodes names; others are literal.
        self._decode = unquote if scheme in WEB else str
        self._prefix = ""
        self._store: Any
        retries: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
        if scheme == "file":
            # Not at the folder, which may be missing.
            self._store = LocalStore()
            self._prefix = url.removeprefix("file://").strip("/") + "/"
        elif scheme in WEB:
            options = {"allow_http": url.startswith("http://")}
            # `from_url` takes addresses of clouds for their object stores, which need credentials.
            open_url: Any = HTTPStore.from_url if "?" in url else from_url
            self._store = open_url(url, client_options=options, retry_config=retries)
        else:
            self._store = from_url(url.replace("%", "%25"), retry_config=retries)

    def state(self, name: str) -> dict[str, int | str]:
        """Return the size `bytes` of a file, and its `etag` or time `modified` if available."""
        if name:
            head = self._obstore.head(self._store, self._path(name))
        else:
            # An address with a query may be signed for GET only.
            head = self._obstore.get(self._store, "", options={"range": (0, 1)}).meta
        return _state(head)

    def read(self, name: str, ranges: Sequence[Range]) -> list[bytes]:
        """Read byte ranges of a file."""
        starts, ends = zip(*ranges, strict=True)
        path = self._path(name)
        parts = self._obstore.get_ranges(self._store, path, starts=starts, ends=ends)
        return [bytes(part) for part in parts]

    def write(self, name: str, content: bytes) -> None:
        """Write a file as a whole."""
        self._obstore.put(self._store, self._path(name), content)

    def states(self) -> dict[str, dict[str, int | str]]:
        """Return the `state` of each file of the folder by name, with a request per 1,000 files."""
        listing = self._obstore.list_with_delimiter(self._store, self._prefix or None)
        return {entry["path"].rpartition("/")[2]: _state(entry) for entry in listing["objects"]}

    def match(self, pattern: str) -> list[str]:
        """List the files that match a pattern with `*`, sorted."""
        return sorted(fnmatch.filter(self.states(), pattern))

    def _path(self, name: str) -> str:
        return self._prefix + self._decode(name)


def _state(entry: Any) -> dict[str, int | str]:
    state: dict[str, int | str] = {"bytes": int(entry["size"])}
    if entry["e_tag"]:
        # Azure lists ETags without quotes.
        return state | {"etag": str(entry["e_tag"]).strip('"')}
    # A server without a modification time yields the Unix epoch.
    modified = entry["last_modified"]
    return state | ({"modified": str(modified)} if modified.timestamp() else {})
