"""HTTP connections: time limits of headers and of slow readers, and a maximum number."""

import asyncio
import resource
from dataclasses import dataclass, field
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1_000
"""Maximum number of open connections, where there are descriptors for twice as many."""
BACKLOG = 128
"""Maximum number of connections that are accepted at once, before any of them is closed."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits that all connections of a service share."""

    header_timeout_s: float
    """Maximum time until the header of a request is complete, in seconds."""
    read_timeout_s: float
    """Maximum time in which a client reads nothing of its response, in seconds."""
    max_connections: int
    """Maximum number of open connections."""
    waiting: dict["LimitedConnection", None] = field(default_factory=dict)
    """Connections without a complete header, in the order of their last request."""


class LimitedConnection(H11Protocol):
    """Connection that ends if its client is too slow.

    uvicorn limits only the time between two requests. Above the maximum number, a new connection
    ends the one that has waited longest for a header, so that clients that send none shut nobody
    out.
    """

    limits: ClassVar[ConnectionLimits]
    _header_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first header."""
        super().connection_made(transport)
        self._wait_for_header()
        if len(self.connections) > self.limits.max_connections:
            next(iter(self.limits.waiting))._abort()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._wait_for_header()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait_for_header()

    def pause_writing(self) -> None:
        """Give the client time to read its response."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(self.limits.read_timeout_s, self._abort)

    def resume_writing(self) -> None:
        """Go on after the client read a part of its response."""
        super().resume_writing()
        self._stop_read_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all timers."""
        self._forget()
        super().connection_lost(exc)

    def _wait_for_header(self) -> None:
        """Start the timer if a header is missing, and stop it otherwise."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_header_timer()
        elif self._header_timer is None:
            self.limits.waiting[self] = None
            self._header_timer = self.loop.call_later(self.limits.header_timeout_s, self._abort)

    def _abort(self) -> None:
        self._forget()
        self.transport.abort()

    def _forget(self) -> None:
        self._stop_header_timer()
        self._stop_read_timer()

    def _stop_header_timer(self) -> None:
        self.limits.waiting.pop(self, None)
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None


def limited_protocol(limits: ConnectionLimits) -> type[LimitedConnection]:
    """Build the protocol class of a service, as uvicorn takes it."""
    members: dict[str, Any] = {"limits": limits}
    return type(LimitedConnection.__name__, (LimitedConnection,), members)


def max_connections() -> int:
    """Return the maximum number of connections: half of the descriptors stay free for files."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MAX_CONNECTIONS, descriptors // 2))
