"""HTTP connections: time limits of slow clients, a maximum number, and a limit of small chunks."""

import asyncio
import resource
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1_000
"""Maximum number of open connections, where there are descriptors for twice as many."""
BACKLOG = 128
"""Maximum number of connections that are accepted at once, before any of them is closed."""
_FREE_CHUNKS, _MIN_CHUNK_BYTES = 1_000, 1_000
"""A body may have 1,000 chunks, and one more for each 1,000 bytes: parsing one takes 20
microseconds, in which no other request is answered."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits that all connections of a service share."""

    header_timeout_s: float
    """Maximum time until the header of a request is complete, in seconds; also the maximum time for
    the rest of a body after its response, which is not read."""
    read_timeout_s: float
    """Maximum time in which a client reads nothing of its response, in seconds."""
    max_connections: int
    """Maximum number of open connections."""
    waiting: dict["LimitedConnection", None] = field(default_factory=dict)
    """Connections that wait for their clients, those that have waited longest first."""


class LimitedConnection(H11Protocol):
    """Connection that ends if its client is too slow.

    uvicorn limits only the time between two requests, until the first byte of the second one. Above
    the maximum number, a new connection ends one that waits for its client, of the address with the
    most connections, so that one client shuts no other out.
    """

    limits: ClassVar[ConnectionLimits]
    _address = ""
    _header_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first header."""
        super().connection_made(transport)
        self.conn = _LimitedParser(h11.SERVER)
        self._address = _network(self.client[0] if self.client else "")
        self._wait()
        if len(self.connections) > self.limits.max_connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        """Wait for the rest of an unread body, and for the next request."""
        super().on_response_complete()
        self._wait()

    def send_400_response(self, msg: str) -> None:
        """Reject a malformed request; a response in progress has a status already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self._abort()

    def pause_writing(self) -> None:
        """Give the client time to read its response."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(self.limits.read_timeout_s, self._abort)
        self._wait()

    def resume_writing(self) -> None:
        """Go on after the client read a part of its response."""
        super().resume_writing()
        self._stop_read_timer()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all timers."""
        self._forget()
        super().connection_lost(exc)

    @property
    def _sends_what_is_not_read(self) -> bool:
        """Whether the client sends a header, or the rest of a body that was answered already."""
        if self.conn.their_state is h11.SEND_BODY:
            return self.conn.our_state not in (h11.SEND_RESPONSE, h11.SEND_BODY)
        return self.conn.their_state is h11.IDLE

    def _wait(self) -> None:
        """Start the timer if no part of the application waits for the client; else stop it."""
        if self.transport.is_closing():
            self._forget()
            return
        if not self._sends_what_is_not_read:
            self._stop_header_timer()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self.limits.header_timeout_s, self._abort)
        is_sending = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if is_sending or self._read_timer is not None:
            self.limits.waiting[self] = None
        else:
            self.limits.waiting.pop(self, None)

    def _make_room(self) -> None:
        """End a connection of the address with the most; none if all have requests in progress."""
        counts = Counter(each._address for each in self.connections if isinstance(each, type(self)))
        most = max(counts.values())
        crowd = [each for each in self.limits.waiting if counts[each._address] == most]
        # Uploads and downloads in progress come last.
        crowd.sort(key=lambda each: not each._sends_what_is_not_read)
        if crowd:
            crowd[0]._abort()

    def _abort(self) -> None:
        self._forget()
        self.transport.abort()

    def _forget(self) -> None:
        self.limits.waiting.pop(self, None)
        self._stop_header_timer()
        self._stop_read_timer()

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None


class _LimitedParser(h11.Connection):
    """Parser that rejects bodies of very many small chunks, which is slow to parse."""

    _chunks = _bytes = 0

    def next_event(self) -> Any:
        """Return the next part of a request."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._bytes += len(event.data)
            if self._chunks > _FREE_CHUNKS + self._bytes // _MIN_CHUNK_BYTES:
                raise h11.RemoteProtocolError("the chunks of the body are too small")
        return event


def _network(address: str) -> str:
    """Return the address of IPv4, or the network of IPv6 that one client usually has."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def limited_protocol(limits: ConnectionLimits) -> type[LimitedConnection]:
    """Build the protocol class of a service, as uvicorn takes it."""
    members: dict[str, Any] = {"limits": limits}
    return type(LimitedConnection.__name__, (LimitedConnection,), members)


def max_connections() -> int:
    """Return the maximum number of connections: half of the descriptors stay free for files."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MAX_CONNECTIONS, descriptors // 2))
