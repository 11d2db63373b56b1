"""Connection to Milvus Lite or a server, with exceptions converted to `SearchError`."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from coca.core.errors import ArgumentError, SearchError, StorageError
from coca.core.extras import require
from coca.search.milvus.lite import Journal, Lease, address_of, check_free, check_space, is_lite

_UNREACHABLE = 2
"""Error code of the client for an unreachable server."""
_SHOWN = 200
"""Maximum length of a filter in the message of an error, in characters."""
_FAULTS_OF_FILTERS = {
    "maximum recursion depth": "it is nested too deeply",
    "too large to convert": "a whole number does not fit into 64 bits",
}
"""In a message of Lite -> the reason of the error."""
_DISK_FULL = re.compile(r"errno (28|122)\b", re.IGNORECASE)
"""In a message of Lite: no space left on the device, or quota exceeded (Linux)."""
_NO_KEEPALIVE = {"grpc.keepalive_time_ms": 2**31 - 1}
"""gRPC channel options without keepalive pings. The client pings every 10 s, and Lite's server
closes a connection that pings more than twice in 300 s (`GOAWAY ... too_many_pings`)."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Version of Milvus, and features that depend on it."""

    name: str
    """Name for messages, such as `"Milvus Lite 3.2"`."""
    lite: bool = False
    """Runs inside the client's process: one process a folder, one writer at a time."""
    cloud: bool = False
    """Zilliz Cloud, which chooses the index itself."""
    several_vectors: bool = True
    """Whether image and caption vectors fit into one row."""


def capabilities_of(server_version: str, uri: str = "") -> Capabilities:
    """Determine the features of a Milvus version.

    Example:
        >>> capabilities_of("v2.3.5").several_vectors, capabilities_of("v2.6.4").several_vectors
        (False, True)
    """
    found = re.search(r"(\d+)\.(\d+)", server_version)
    if found is None:
        raise SearchError(f"{uri or 'the server'} reports no version of Milvus: {server_version!r}")
    version = (int(found[1]), int(found[2]))
    numbers = f"{version[0]}.{version[1]}"
    if server_version.startswith("milvus_lite"):
        if version < (3, 0):
            raise SearchError(
                f"{uri or 'the folder'} is kept by Milvus Lite {numbers}; 3.2 or newer is needed"
            )
        return Capabilities(name=f"Milvus Lite {numbers}", lite=True)
    # The first version with `upsert` and array columns.
    if version < (2, 3):
        raise SearchError(f"{uri or 'the server'} is Milvus {numbers}; 2.3 or newer is needed")
    cloud = "zilliz" in uri or "zilliz" in server_version.lower()
    return Capabilities(
        name=f"Zilliz Cloud ({numbers})" if cloud else f"Milvus {numbers}",
        cloud=cloud,
        several_vectors=version >= (2, 4),
    )


class Connection:
    """Milvus client with its version, capabilities and write lock.

    Attributes:
        uri: URI as Milvus takes it.
        server_version: Version such as `"v2.6.4"` or `"milvus_lite-3.2.2"`.
        capabilities: Features of that version.
        is_lite: Whether it is Milvus Lite, in this process or served by another.
        timeout_s: Timeout of each call, in seconds.
        write_lock: Lock to hold during each write.
    """

    def __init__(self, uri: str, *, token: str = "", timeout_s: float = 60.0, create: bool) -> None:
        """Connect."""
        uri = self.uri = address_of(uri)
        self.timeout_s = timeout_s
        self._milvus = require("pymilvus", extra="search")
        self._rpc_error: type[Exception] = require("grpc", extra="search").RpcError
        self.lease: Lease | None = None  # lock on the folder of Lite; None on a server
        self._client: Any = None
        if is_lite(uri):
            require("milvus_lite", extra="search")
            self.lease = Lease.take(uri, create=create)
        self.write_lock: AbstractContextManager[Any] = (
            self.lease.write_lock if self.lease else nullcontext()
        )
        address = str(self.lease.path) if self.lease else uri
        try:
            # Two threads that start Lite for one folder at once would lock each other out.
            with self.write_lock, self.faults("open it"):
                self._client = self._new_client(address, token, keepalive=self.lease is None)
                self.server_version = str(self._client.get_server_version(timeout=timeout_s))
                self.capabilities = capabilities_of(self.server_version, uri)
                if self.capabilities.lite and self.lease is None:
                    self._client.close()
                    self._client = self._new_client(address, token, keepalive=False)
                self._flush_log()
        except BaseException as error:
            lease = self.lease
            self.close()
            if lease is not None and lease.users == 0 and isinstance(error, SearchError):
                # Another process may hold the lock, which Lite does not report.
                check_free(lease.path)
            raise
        self.is_lite = self.capabilities.lite

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def client(self) -> Any:
        """The client of Milvus."""
        if self._client is None:
            raise SearchError(f"the collection in {self.uri} was closed; open it again")
        return self._client

    @property
    def milvus_error(self) -> type[Exception]:
        """Exception class of Milvus, for handling inside `faults`."""
        return self._milvus.MilvusException

    def _new_client(self, address: str, token: str, *, keepalive: bool) -> Any:
        """Create a client with a channel of its own, which ends with the client."""
        return self._milvus.MilvusClient(
            address,
            token=token,
            timeout=self.timeout_s,
            dedicated=True,
            grpc_options={} if keepalive else _NO_KEEPALIVE,
        )

    def journal(self, collection: str) -> Journal:
        """Return a journal of writes to a collection; on Lite the process-wide journal."""
        return self.lease.journal(collection) if self.lease else Journal()

    @property
    def normalized_uri(self) -> str:
        """Normalized folder path or server URI, for comparison."""
        if self.lease:
            return str(self.lease.path)
        return self.uri.rstrip("/").lower()

    @property
    def data_type(self) -> Any:
        """The column types of Milvus."""
        return self._milvus.DataType

    def _flush_log(self) -> None:
        """Flush what a killed process left in the log of Lite, unless the disk is full."""
        lease = self.lease
        if lease is None or not lease.has_log:
            return
        with suppress(StorageError):
            # A flush without space would hide the rows.
            check_space(lease.path)
            for collection in self._client.list_collections(timeout=self.timeout_s):
                self._client.flush(collection, timeout=self.timeout_s)
            lease.has_log = False

    def index_fault(self, collection: str, index_name: str) -> str:
        """Return why an index build failed, which the index description omits."""
        handler = self.client._get_connection()
        _, reason = handler.get_index_state(collection, index_name, timeout=self.timeout_s)
        return str(reason or "")

    def close(self) -> None:
        """Close the connection; closing twice does nothing."""
        client, self._client = self._client, None
        lease, self.lease = self.lease, None
        if client is not None:
            client.close()
        if lease is not None:
            lease.release()

    @contextmanager
    def faults(self, doing: str, *, filter: str = "") -> Iterator[None]:
        """Convert exceptions of Milvus into a `SearchError` of one sentence."""
        try:
            yield
        except self._rpc_error as error:
            # The client passes network errors through unchanged.
            reason = getattr(error, "details", lambda: "")() or type(error).__name__
            status = getattr(getattr(error, "code", lambda: None)(), "name", "")
            if status in ("DEADLINE_EXCEEDED", "UNAVAILABLE"):
                sentence = f"no Milvus answers at {self.uri} (could not {doing}): {reason}"
            else:
                sentence = f"Milvus at {self.uri} could not {doing}: {reason}"
            raise SearchError(sentence) from error
        except self._milvus.MilvusException as error:
            reason = str(error.message).strip().partition("\n")[0] or type(error).__name__
            if error.code == _UNREACHABLE:
                sentence = f"no Milvus answers at {self.uri}: {reason}"
            elif filter and _blames_filter(error.code, str(error.message)):
                shown = filter if len(filter) <= _SHOWN else f"{filter[:_SHOWN]}..."
                raise ArgumentError(
                    f"Milvus does not understand the filter {shown!r}: {_of_filter(reason)}; "
                    "fields are id, path, caption, caption_source, album, tags, width, height, "
                    'time and metadata["KEY"]'
                ) from error
            else:
                sentence = f"Milvus at {self.uri} could not {doing}: {reason}"
                if self.lease and _DISK_FULL.search(reason):
                    raise StorageError(sentence) from error
            raise SearchError(sentence) from error


def _blames_filter(code: int, message: str) -> bool:
    # Lite has a specific code; servers share one code among many errors (2.3) or use 1100.
    blamed = code == 6 or "expression" in message or "query plan" in message
    return blamed or any(fault in message for fault in _FAULTS_OF_FILTERS)


def _of_filter(reason: str) -> str:
    """Translate an error of Python, in which Lite evaluates filters."""
    translated = (text for fault, text in _FAULTS_OF_FILTERS.items() if fault in reason)
    return next(translated, reason)
