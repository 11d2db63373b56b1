"""Turns by key: scarce parts of the service, such as the model, go from one key to the next.

A key with many requests waits for its own, and a key with one request waits for one turn of others.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from queue import Full
from typing import Generic, TypeVar

from coca.core.cancellation import check_cancelled

T = TypeVar("T")

_key: ContextVar[str | None] = ContextVar("key", default=None)


@contextmanager
def of_key(name: str) -> Iterator[None]:
    """Count the work of this context, in its threads as well, for a key; without, it is its own."""
    token = _key.set(name)
    try:
        yield
    finally:
        _key.reset(token)


class Rotation(Generic[T]):
    """Queue that takes an item of each key in turn; not thread-safe."""

    def __init__(self, *, max_items: int | None = None) -> None:
        """Limit the waiting items of each key."""
        self._max_items = max_items
        self._items: dict[str | None, deque[T]] = {}
        self._last: str | None = None

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def push(self, item: T) -> None:
        """Add an item of the key of this context.

        Raises:
            Full: The key has the maximum number of items.
        """
        items = self._items.get(_key.get(), deque())
        if self._max_items is not None and len(items) >= self._max_items:
            raise Full
        items.append(item)
        self._items[_key.get()] = items

    def pop(self) -> T:
        """Take the first item of the next key, if there is any other than the last one."""
        key = next((key for key in self._items if key != self._last), self._last)
        items, self._last = self._items.pop(key), key
        item = items.popleft()
        if items:
            self._items[key] = items
        return item


class Turns:
    """Lock with places that keys get in turn, and threads of a key in the order of their requests.

    A thread that releases a `threading.Lock` and acquires it again at once usually gets it, and
    those that wait for it do not.
    """

    def __init__(self, places: int = 1, *, max_waiting: int | None = None) -> None:
        """Limit the threads of each key that wait; more raise `queue.Full`."""
        self._guard = threading.Lock()
        self._free = places
        self._queue: Rotation[threading.Lock] = Rotation(max_items=max_waiting)

    @property
    def waiting(self) -> int:
        """Number of threads that wait for their turn."""
        return len(self._queue)

    def __enter__(self) -> None:
        turn = None
        with self._guard:
            if self._free:
                self._free -= 1
            else:
                turn = threading.Lock()
                turn.acquire()
                self._queue.push(turn)
        if turn is not None:
            turn.acquire()
        try:
            # It may have waited long.
            check_cancelled()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        with self._guard:
            if self._queue:
                # The place stays taken, by the thread whose turn it is.
                self._queue.pop().release()
            else:
                self._free += 1
