"""Turns of writers: one client at a time writes to a collection, and its writes are numbered.

Milvus has no transactions and no compare-and-set, but a collection has properties, which all
clients read and write as a whole. With four of them clients take turns, as in algorithm 1 of
Lamport, "A fast mutual exclusion algorithm" (1987): a client writes its token to two, and needs to
wait only if another client began at the same time. That algorithm also needs a longest time of a
turn. Here a client that enters says so in a third property, and others see it, so that a turn may
take any time; only the few calls before have a longest time, and a client that exceeds it waits and
looks once more. The fourth is the number of the last write that ended.
"""

import random
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from coca.core.cancellation import check_cancelled
from coca.core.errors import SearchError
from coca.search.milvus.connection import Connection

_NEXT = "coca.next"
"""Property with the token of the client that wanted a turn last (Lamport's x)."""
_HOLDER = "coca.holder"
"""Property with the token of the client that took the turn last, until a turn ends (Lamport's
y)."""
_BEGUN = "coca.begun"
"""Property with the number of the last write that began, and behind a space the token of its
client."""
_ENDED = "coca.turn"
"""Property with the number of the last write that ended."""
_CALLS_S = 0.5
"""Longest time from a read of the properties to the end of the third call after it, in seconds."""
_LEASE_S = 30.0
"""Time after which others take over from a client that does not end its turn, in seconds."""
_LOOK_S = (0.01, 0.05)
_LITE = threading.RLock()
"""One process at a time opens a file of Milvus Lite, so that its threads take turns."""


class TurnLostError(Exception):
    """A turn took too long: nothing may be written any more."""


@dataclass
class Turn:
    """Turn of this client; others wait for its end."""

    number: int
    """Number of this write; higher by one than that of the last one."""
    ends_s: float
    """Time of the monotonic clock after which nothing may be written."""
    dropped: bool = False
    """Whether the collection was dropped, and the turn with it."""

    def check(self) -> None:
        """Check that the turn still lasts, right before a write."""
        if time.monotonic() > self.ends_s:
            raise TurnLostError


@dataclass(frozen=True)
class _State:
    """Properties of turns, as they were at one time."""

    next: str
    holder: str
    begun: int
    writer: str
    """Client of the last write that began."""
    ended: int

    @property
    def is_free(self) -> bool:
        return not self.holder and not self.is_writing

    @property
    def is_writing(self) -> bool:
        return self.begun > self.ended


def last_write(connection: Connection, own_name: str) -> int:
    """Return the number of the last write that ended; 0 before the first one."""
    return _read(connection, own_name).ended


def note_write(connection: Connection, own_name: str, number: int) -> None:
    """Store the number of the last write, which ends a turn."""
    _write(connection, own_name, {_ENDED: str(number), _HOLDER: ""})


@contextmanager
def take_turn(connection: Connection, own_name: str) -> Iterator[Turn]:
    """Wait for a turn to write to a collection, and end it.

    Raises:
        SearchError: Other clients wrote for longer than the timeout of the connection.
    """
    is_lite = connection.capabilities.lite
    with _LITE if is_lite else nullcontext():
        if is_lite:
            turn = Turn(last_write(connection, own_name) + 1, float("inf"))
        else:
            turn = _wait(connection, own_name)
        try:
            yield turn
        finally:
            if not turn.dropped and time.monotonic() < turn.ends_s + _LEASE_S / 2:
                note_write(connection, own_name, turn.number)


def _wait(connection: Connection, own_name: str) -> Turn:
    token = secrets.token_hex(4)
    patience_s = connection.timeout_s + _LEASE_S
    began_s = since_s = time.monotonic()
    seen: _State | None = None
    while time.monotonic() < began_s + patience_s:
        check_cancelled()
        state, now_s = _read(connection, own_name), time.monotonic()
        if seen is None or (state.holder, state.begun) != (seen.holder, seen.begun):
            seen, since_s = state, now_s
        # A client that did not end its turn may have written.
        dead = state.begun if now_s > since_s + _LEASE_S else -1
        if not (state.is_free or dead >= 0):
            time.sleep(random.uniform(*_LOOK_S))
            continue
        if number := _enter(connection, own_name, token, state.holder, dead):
            return Turn(number, time.monotonic() + _LEASE_S / 2)
    raise SearchError(
        f"other clients have been writing to {own_name} of {connection.uri} for more than "
        f"{patience_s:g} s: repeat this later"
    )


def _enter(connection: Connection, own_name: str, token: str, holder: str, dead: int) -> int:
    """Try to begin a write; return its number, or 0 if another client was faster.

    Args:
        connection: The connection.
        own_name: Name of the collection.
        token: Token of this client.
        holder: Token of a client that may have the turn, but is dead.
        dead: Number of its write; lower than all others if there is no such client.
    """

    def is_taken(state: _State, holder: str) -> bool:
        return state.holder != holder or (state.is_writing and state.begun > dead)

    _write(connection, own_name, {_NEXT: token})
    read_s = time.monotonic()
    if is_taken(_read(connection, own_name), holder):
        return 0
    _write(connection, own_name, {_HOLDER: token})
    is_late = time.monotonic() > read_s + _CALLS_S
    state = _read(connection, own_name)
    if is_late or state.next != token:
        # Others that found the turn free write their tokens in this time.
        time.sleep(_CALLS_S)
        read_s = time.monotonic()
        state = _read(connection, own_name)
    if is_taken(state, token):
        return 0
    number = max(state.begun, state.ended) + 1
    _write(connection, own_name, {_BEGUN: f"{number} {token}"})
    if time.monotonic() > read_s + _CALLS_S:
        # Another client may not have seen it; it wrote its token before, or will see it.
        time.sleep(_CALLS_S)
        state = _read(connection, own_name)
        if (state.holder, state.begun, state.writer) != (token, number, token):
            return 0
    return number


def _read(connection: Connection, own_name: str) -> _State:
    properties = connection.call("describe_collection", own_name)["properties"]
    begun, _, writer = properties.get(_BEGUN, "0").partition(" ")
    return _State(
        next=properties.get(_NEXT, ""),
        holder=properties.get(_HOLDER, ""),
        begun=int(begun),
        writer=writer,
        ended=int(properties.get(_ENDED, "0").partition(" ")[0]),
    )


def _write(connection: Connection, own_name: str, properties: Mapping[str, str]) -> None:
    connection.call("alter_collection_properties", own_name, properties=properties)
