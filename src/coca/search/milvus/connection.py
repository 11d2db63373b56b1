"""Connection to Milvus, with its exceptions converted to `SearchError`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from coca.core.errors import ArgumentError, SearchError, StorageError
from coca.core.extras import require

LITE = "milvus-lite:"
"""Beginning of the URI of Milvus Lite, before its path."""

_UNREACHABLE = 2
"""Error code of the client for an unreachable server."""
_NOT_FOUND = 100
"""Error code of Milvus for a missing collection."""
_DISK_FULL = re.compile(r"errno (28|122)\b", re.IGNORECASE)
"""In a message of Lite: no space left on the device, or quota exceeded (Linux)."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Version of Milvus, and features that depend on it."""

    product: str
    """Name and version, such as `Milvus 2.6.4` or `Milvus Lite 3.2.2`."""
    lite: bool = False
    """Runs inside the client's process."""
    cloud: bool = False
    """Zilliz Cloud, which chooses the index itself."""
    several_vectors: bool = True
    """Whether a record may have several vector columns."""
    tokenizer: str = ""
    """Tokenizer of the column of words; empty without BM25."""


def capabilities_of(server_version: str, uri: str = "") -> Capabilities:
    """Determine the features of a Milvus version.

    Raises:
        SearchError: It reports no version, or one that is too old.

    Example:
        >>> capabilities_of("v2.4.1").tokenizer, capabilities_of("v2.6.4").tokenizer
        ('', 'whitespace')
    """
    found = re.search(r"(?<!\d)(\d+)\.(\d+)(\.\d+)?", server_version)
    if found is None:
        raise SearchError(f"{uri or 'the server'} reports no version of Milvus: {server_version!r}")
    numbers, version = found.group(), (int(found[1]), int(found[2]))
    if server_version.startswith("milvus_lite"):
        return Capabilities(product=f"Milvus Lite {numbers}", lite=True, tokenizer="standard")
    # The first version with `upsert` and array columns.
    if version < (2, 3):
        raise SearchError(f"{uri or 'the server'} is Milvus {numbers}; 2.3 or newer is needed")
    cloud = "zilliz" in uri or "zilliz" in server_version.lower()
    return Capabilities(
        product=f"Zilliz Cloud ({numbers})" if cloud else f"Milvus {numbers}",
        cloud=cloud,
        several_vectors=version >= (2, 4),
        tokenizer="whitespace" if version >= (2, 5) else "",
    )


class Connection:
    """Milvus client with its capabilities; thread-safe.

    Attributes:
        uri: URI as it was given.
        types: Module of Milvus, with the types of columns and functions.
        capabilities: Features of its version.
        timeout_s: Timeout of each call, in seconds.
    """

    def __init__(self, uri: str, *, token: str = "", timeout_s: float = 60.0) -> None:
        """Connect.

        Raises:
            SearchError: No Milvus answers, or it is too old.
        """
        self.uri, self.timeout_s = uri, timeout_s
        self.types = require("pymilvus", extra="milvus")
        self._rpc_error: type[Exception] = require("grpc", extra="milvus").RpcError
        self._client: Any = None
        address = uri.removeprefix(LITE)
        if address != uri:
            require("milvus_lite", extra="milvus-lite")
            if not address.endswith(".db"):
                raise ArgumentError(
                    f"Milvus Lite takes a path that ends in .db, got {uri}: "
                    f"use {uri.rstrip('/')}.db"
                )
        try:
            with self.faults("open it"):
                self._client = self.types.MilvusClient(
                    address, token=token, timeout=timeout_s, dedicated=True
                )
                version = str(self._client.get_server_version(timeout=timeout_s))
            self.capabilities = capabilities_of(version, uri)
        except BaseException as error:
            self.close()
            # Lite does not report why; it logs the lock of another process.
            if isinstance(error, SearchError) and str(error).endswith("Open local milvus failed"):
                raise SearchError(
                    f"{error}; only one process at a time may open a folder of Milvus Lite"
                ) from error
            raise

    @property
    def client(self) -> Any:
        """The client of Milvus."""
        if self._client is None:
            raise SearchError(f"the store {self.uri} was closed; open it again")
        return self._client

    def is_missing(self, error: SearchError) -> bool:
        """Return whether an error is that of a missing collection."""
        cause = error.__cause__
        return isinstance(cause, self.types.MilvusException) and (
            cause.code == _NOT_FOUND or "can't find collection" in str(cause.message)
        )

    def call(self, name: str, *arguments: Any, doing: str = "", **options: Any) -> Any:
        """Call a method of `MilvusClient` with a timeout.

        Args:
            name: Name of the method.
            *arguments: Its arguments.
            doing: What it does, for the message of an error. Default: the call itself.
            **options: Its keyword arguments.

        Raises:
            SearchError: Milvus is unreachable, or could not do it.
        """
        names = ", ".join(str(argument) for argument in arguments)
        with self.faults(doing or f"run {name}({names})"):
            options.setdefault("timeout", self.timeout_s)
            return getattr(self.client, name)(*arguments, **options)

    def close(self) -> None:
        """Close the connection; closing twice does nothing."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def faults(self, doing: str) -> Iterator[None]:
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
        except self.types.MilvusException as error:
            reason = str(error.message).strip().partition("\n")[0] or type(error).__name__
            if error.code == _UNREACHABLE:
                raise SearchError(f"no Milvus answers at {self.uri}: {reason}") from error
            sentence = f"Milvus at {self.uri} could not {doing}: {reason}"
            if _DISK_FULL.search(reason):
                raise StorageError(sentence) from error
            raise SearchError(sentence) from error
