"""Write-behind: write records to Milvus in a thread while the model embeds the next batch."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from coca.search.milvus.collection import Collection
from coca.search.records import Record

_BATCHES = 2
"""Maximum queued writes; more only fill memory, since the slower side limits throughput."""


class WriteBehind:
    """Record store with asynchronous writes by one thread, in order.

    `get` sees queued writes at once. A later call raises the error of a failed write, and writes
    queued after it are dropped. Leaving the `with` block waits for all writes.
    """

    def __init__(self, index: Collection) -> None:
        self._index = index
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write_behind")
        self._jobs: deque[Future[None]] = deque()
        # Id -> pending record, None for a pending deletion; modified by both threads.
        self._coming: dict[str, Record | None] = {}
        self._lock = threading.Lock()
        self._failed = False

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self._wait(0)

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids, including queued writes."""
        wanted = list(ids)
        with self._lock:
            coming = {id: self._coming[id] for id in wanted if id in self._coming}
        stored = self._index.get([id for id in wanted if id not in coming])
        return stored | {id: record for id, record in coming.items() if record is not None}

    def upsert(self, records: Iterable[Record]) -> None:
        """Queue an upsert."""
        batch = list(records)
        self._submit({record.id: record for record in batch}, lambda: self._index.upsert(batch))

    def delete(self, ids: Iterable[str]) -> None:
        """Queue a deletion."""
        batch = list(ids)
        self._submit(dict.fromkeys(batch), lambda: self._index.delete(batch))

    def flush(self) -> None:
        """Wait for all queued writes and flush them to disk."""
        self._wait(0)
        self._index.flush()

    def _submit(self, coming: dict[str, Record | None], write: Callable[[], object]) -> None:
        if not coming:
            return
        with self._lock:
            self._coming |= coming
        self._jobs.append(self._thread.submit(self._do, coming, write))
        self._wait(_BATCHES)

    def _do(self, coming: dict[str, Record | None], write: Callable[[], object]) -> None:
        # A deletion after a failed write could delete the only copy.
        if self._failed:
            return
        try:
            write()
        except BaseException:
            self._failed = True
            raise
        with self._lock:
            for id, record in coming.items():
                if id in self._coming and self._coming[id] is record:
                    del self._coming[id]

    def _wait(self, left: int) -> None:
        while len(self._jobs) > left:
            self._jobs.popleft().result()
