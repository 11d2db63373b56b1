"""Bounded, ordered prefetching with threads: `map_ahead` and `iterate_ahead`."""

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
    """Map a function over items in a thread pool, in order, with bounded prefetch.

    The caller's thread iterates over the items. An exception of `function` is raised at the
    position of its item. To stop early, close the iterator; calls that have not started are
    cancelled.
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
    """Iterate over items in a background thread, prefetching up to `ahead` of them.

    An exception of the iteration is raised after the preceding items. To stop early, close the
    iterator; the thread ends after its current item.
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
