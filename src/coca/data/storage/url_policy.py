"""URL policy of tables (SSRF protection): which files and URLs their rows may name.

An untrusted table could make this machine read its own services and files: `file:///...`,
`http://127.0.0.1:8000/...`, the metadata address of a cloud.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from coca.core.errors import DataError
from coca.data.storage.remote import OBJECT_STORES, WEB
from coca.data.storage.storage import full_path, is_remote

_HOST = re.compile(r"[A-Za-z0-9_.-]+")
_ODD = re.compile(r"[\x00-\x20\x7f\\]")


class Reach:
    """Access policy for the rows of a table.

    - A local table may name local files by path.
    - A remote table may name URLs with its scheme and host, and no local files.
    - Both may name object stores and public web addresses. A host that is, or resolves to, a
      loopback, private or link-local address is rejected, as is any other scheme, such as `file`.
    - Every path under one of `allowed` is permitted.

    Redirects are followed without a check of their target, and a name may later resolve to another
    address. Where untrusted tables are read, restrict the network as well.

    Args:
        table: Path or URL of the table.
        allowed: Folders or URL prefixes, matched at a `/`.
    """

    def __init__(self, table: str, allowed: Sequence[str] = ()) -> None:
        self._table = table
        self._allowed = [full_path(one).rstrip("/") for one in allowed]
        self._public: dict[str, bool] = {}

    def check(self, path: str) -> None:
        """Reject a file or URL that the table may not name."""
        if not self._is_allowed(path) and not self._is_open(path):
            raise DataError(
                f"{self._table} names {path:.200}, which a table may not read by itself; if the "
                "table is to be trusted, allow it by read_from",
                reason="not_allowed",
            )

    def _is_allowed(self, path: str) -> bool:
        full = full_path(path)
        if is_remote(path) and (_is_odd(path) or _climbs(path)):
            return False
        return any(full == one or full.startswith(one + "/") for one in self._allowed)

    def _is_open(self, path: str) -> bool:
        if not is_remote(path):
            return not is_remote(self._table)
        if _is_odd(path):
            return False
        url, table = urlsplit(path), urlsplit(self._table)
        if is_remote(self._table) and (url.scheme, url.netloc) == (table.scheme, table.netloc):
            return True
        if url.scheme not in OBJECT_STORES:
            return False
        return url.scheme not in WEB or self._is_public(url.hostname or "")

    def _is_public(self, host: str) -> bool:
        if host not in self._public:
            self._public[host] = _is_public(host)
        return self._public[host]


def _is_odd(url: str) -> bool:
    """Return whether URL parsers may interpret a URL differently."""
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port
    except ValueError:
        return True
    # Only the names of keys and files may contain spaces, since they are literal.
    in_names = parts.scheme not in WEB and " " not in parts.netloc
    return bool(_ODD.search(url.replace(" ", "") if in_names else url))


def _climbs(url: str) -> bool:
    # Some parsers strip spaces at the end of a URL.
    parts = re.split(r"[/?#]", url.lower().replace("%2e", "."))
    return ".." in map(str.strip, parts)


def _is_public(host: str) -> bool:
    """Return whether all addresses of a host are public.

    A name that does not resolve counts as public: reading it fails, or goes through a proxy.
    """
    try:
        return _is_global(host)
    except ValueError:
        pass
    # Parsers disagree about other names, such as `%31270.0.1`.
    if not _HOST.fullmatch(host):
        return False
    try:
        # Also resolves `2130706433`, `0x7f.1` and other notations of an address.
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        last = host.rstrip(".").rpartition(".")[2]
        return not re.fullmatch(r"[0-9]+|0[xX].*|localhost", last)
    return all(_is_global(str(address[0])) for *_, address in found)


def _is_global(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is not None and not inner.is_global:
            return False
    return found.is_global and not found.is_multicast
