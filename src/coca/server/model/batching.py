"""Micro-batching and turns: requests of many clients share the model."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, TypeVar

from coca.server.errors import ServiceError

T = TypeVar("T")
R = TypeVar("R")

RETRY_AFTER_S = 1
"""Advised wait of a client whose request found a full queue, in seconds."""


class Turns:
    """Lock that threads get in the order in which they asked for it.

    A thread that releases a `threading.Lock` and acquires it again at once usually gets it, and
    those that wait for it do not.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._is_taken = False

    @property
    def waiting(self) -> int:
        """Number of threads that wait for their turn."""
        return len(self._waiting)

    def __enter__(self) -> None:
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(self, *error: object) -> None:
        with self._guard:
            if self._waiting:
                # It stays taken, by the thread whose turn it is.
                self._waiting.popleft().release()
            else:
                self._is_taken = False


class Batcher(Generic[T, R]):
    """Collects items of several threads into batches, bounded by size and by time.

    A thread of its own calls the model. While it works, further items queue up, so that the batches
    grow with the load. An item that arrives at an idle model waits for at most `wait_s`, and not at
    all after a batch of one item: a single client would wait for nobody.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R]],
        *,
        max_batch: int,
        wait_s: float,
        queue_size: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Start the thread.

        Args:
            run: Computes the results of a batch, in its order.
            max_batch: Maximum number of items of a batch, at least 1.
            wait_s: Maximum time that an item waits for others, in seconds.
            queue_size: Maximum number of waiting items.
            observe: Called with the size of each batch.
        """
        self._run = run
        self._max_batch = max_batch
        self._wait_s = wait_s if max_batch > 1 else 0.0
        self._last_size = 1
        self._observe = observe
        self._queue: queue.Queue[tuple[T, Future[R]] | None] = queue.Queue(queue_size)
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of waiting items."""
        return self._queue.qsize()

    def map(self, items: Sequence[T]) -> list[R]:
        """Compute the results of some items, in batches with the items of other threads.

        At most one batch of a call waits at a time, so that another call waits for two batches,
        however many items this one has.
        """
        part = min(self._max_batch, self._queue.maxsize)
        results: list[R] = []
        for start in range(0, len(items), part):
            futures = [self._submit(item) for item in items[start : start + part]]
            results += [future.result() for future in futures]
        return results

    def close(self) -> None:
        """Finish the queued items and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _submit(self, item: T) -> "Future[R]":
        future: Future[R] = Future()
        try:
            self._queue.put_nowait((item, future))
        except queue.Full:
            raise ServiceError(
                f"the service is overloaded: {self._queue.maxsize} items wait already",
                status=503,
                code="overloaded",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        return future

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._observe(len(batch))
            try:
                results = self._run([item for item, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)

    def _next_batch(self) -> list[tuple[T, "Future[R]"]] | None:
        """Wait for a first item, then take what arrives in time; None ends the thread."""
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        deadline = time.monotonic() + (0.0 if self._last_size == 1 else self._wait_s)
        with suppress(queue.Empty):
            while len(batch) < self._max_batch:
                left = deadline - time.monotonic()
                item = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
                if item is None:
                    self._queue.put(None)
                    break
                batch.append(item)
        self._last_size = len(batch)
        return batch
