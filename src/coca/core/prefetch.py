"""Work that is done ahead of the one who needs it: by threads, in order, and never too far."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Full, Queue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_LOOK_UP_S = 0.1


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int
) -> Iterator[R]:
    """What `function` gives for each item, in order, worked out by threads meanwhile.

    The items are taken by the caller's thread. What `function` raises is raised in its item's
    place. Whoever stops early closes the iterator, and what has not begun never will.

    Args:
        function: Called by several threads at once.
        items: What to work on.
        threads: How many, at least 1.
        ahead: How many results may wait to be taken, at least 1.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def iterate_ahead(items: Iterable[T], *, ahead: int) -> Iterator[T]:
    """The items, taken by a thread of its own while the caller is busy with earlier ones.

    What taking them raises is raised after those that came before. Whoever stops early closes the
    iterator, and the thread ends after the item that it is at.

    Args:
        items: Taken by one thread from beginning to end.
        ahead: How many may wait, at least 1.
    """
    queue: Queue[tuple[bool, T | BaseException | None]] = Queue(ahead)
    unwanted = threading.Event()

    def put(more: bool, value: T | BaseException | None) -> None:
        while not unwanted.is_set():
            try:
                queue.put((more, value), timeout=_LOOK_UP_S)
            except Full:
                continue
            return

    def take() -> None:
        try:
            for item in items:
                put(True, item)
                if unwanted.is_set():
                    return
        except BaseException as error:
            put(False, error)
        else:
            put(False, None)

    thread = threading.Thread(target=take, name="iterate_ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, value = queue.get()
            if isinstance(value, BaseException) and not more:
                raise value
            if not more:
                return
            yield value  # type: ignore[misc]
    finally:
        unwanted.set()
        thread.join()
