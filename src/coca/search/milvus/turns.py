"""Turns of writers: one client at a time writes to a collection, and its writes are numbered.

Milvus has no transactions and no compare-and-set, but a collection has properties, which all
clients read as they were written last. With two of them clients take turns: algorithm 1 of Lamport,
"A fast mutual exclusion algorithm" (1987), which waits only if two clients begin at the same time.
The algorithm assumes a longest time of two calls. A client that exceeds it does not write.
"""

import random
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from coca.core.cancellation import check_cancelled
from coca.core.errors import SearchError
from coca.search.milvus.connection import Connection

_NEXT = "coca.next"
"""Property with the token of the client that wanted a turn last (Lamport's x)."""
_TURN = "coca.turn"
"""Property with the number of writes, and behind a space the token of the client whose turn it is
(Lamport's y)."""
_CALLS_S = 0.5
"""Longest time from a read of the properties to the end of the write that follows, in seconds."""
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


def last_write(connection: Connection, own_name: str) -> int:
    """Return the number of the last write that ended; 0 before the first one."""
    return _read(connection, own_name)[1]


def note_write(connection: Connection, own_name: str, number: int) -> None:
    """Store the number of the last write, which ends a turn."""
    _write(connection, own_name, _TURN, str(number))


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
    seen = ""
    while time.monotonic() < began_s + patience_s:
        check_cancelled()
        _, _, holder = _read(connection, own_name)
        now_s = time.monotonic()
        if holder != seen:
            seen, since_s = holder, now_s
        is_over = now_s > since_s + _LEASE_S
        if holder and not is_over:
            time.sleep(random.uniform(*_LOOK_S))
            continue
        _write(connection, own_name, _NEXT, token)
        read_s = time.monotonic()
        _, number, holder = _read(connection, own_name)
        if holder and not (is_over and holder == seen):
            continue
        # A client that did not end its turn may have written.
        number += bool(holder)
        _write(connection, own_name, _TURN, f"{number} {token}")
        taken_s = time.monotonic()
        if taken_s > read_s + _CALLS_S:
            # Another client may have the turn; its end, or the lease, frees it.
            continue
        if _read(connection, own_name)[0] != token:
            time.sleep(_CALLS_S)
            if _read(connection, own_name)[2] != token:
                continue
        return Turn(number + 1, taken_s + _LEASE_S / 2)
    raise SearchError(
        f"other clients have been writing to {own_name} of {connection.uri} for more than "
        f"{patience_s:g} s, or it takes more than {_CALLS_S:g} s to answer: repeat this later"
    )


def _read(connection: Connection, own_name: str) -> tuple[str, int, str]:
    """Read who wanted a turn last, the number of writes, and whose turn it is."""
    properties = connection.call("describe_collection", own_name)["properties"]
    number, _, holder = properties.get(_TURN, "0").partition(" ")
    return properties.get(_NEXT, ""), int(number), holder


def _write(connection: Connection, own_name: str, name: str, value: str) -> None:
    connection.call("alter_collection_properties", own_name, properties={name: value})
