"""Change log of a collection: a journal of writes, and staleness checks for in-memory copies."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, runtime_checkable

from coca.core.errors import CocaError

logger = logging.getLogger(__name__)

_REMEMBERED_IDS = 100_000
_SHARE = 20
"""A copy is read again at so many times the age of its read time: 5 % of the time."""


class Journal:
    """Thread-safe journal of the ids that were written or deleted, in order.

    Attributes:
        writes: Number of ids so far.
    """

    def __init__(self) -> None:
        self.writes = 0
        self._changed: deque[str] = deque(maxlen=_REMEMBERED_IDS)
        self._lock = threading.Lock()

    def note(self, ids: Sequence[str]) -> None:
        """Record ids that were written or deleted."""
        with self._lock:
            self._changed.extend(ids)
            self.writes += len(ids)

    def since(self, writes: int) -> list[str] | None:
        """List the ids since `writes` had this value; None if they are no longer stored."""
        with self._lock:
            newer = self.writes - writes
            if newer > len(self._changed):
                return None
            return list(islice(self._changed, len(self._changed) - newer, None))


@runtime_checkable
class Counted(Protocol):
    """Collection with an in-memory copy."""

    @property
    def sees_all_writes(self) -> bool:
        """Whether `writes` counts the writes of all clients."""
        ...

    @property
    def writes(self) -> int:
        """Number of rows written or deleted, as far as this process knows."""
        ...

    def count(self, filter: str = "") -> int:
        """Count the records."""
        ...


class Watch:
    """Staleness check of an in-memory copy of a collection.

    Milvus does not notify clients of replaced rows. On Lite all writers are in this process and
    known. On a server the number of records is compared, and the copy is read again periodically.
    """

    def __init__(self, index: Counted, check_s: float) -> None:
        """Watch a collection; `check_s` is the minimum interval of checks, in seconds."""
        self._index = index
        self._check_s = check_s
        self._looked_s = self._read_s = time.monotonic()
        self._took_s = 0.0

    @contextmanager
    def reading(self) -> Iterator[int]:
        """Time a full read; yield the number of writes that the copy includes."""
        began_s = time.monotonic()
        try:
            yield self._index.writes
        finally:
            # Also after a failure, so that the next try waits.
            self._looked_s = self._read_s = time.monotonic()
            self._took_s = self._read_s - began_s

    def is_due(self) -> bool:
        """Return whether the next check is due."""
        return time.monotonic() > self._looked_s + self._check_s

    def has_changed(self, count: int) -> bool:
        """Check whether the number of records differs from `count`, the copy's."""
        self._looked_s = time.monotonic()
        return self._index.count() != count

    def is_old(self) -> bool:
        """Return whether a full re-read is due, for replacements by other clients."""
        age_s = time.monotonic() - self._read_s
        return not self._index.sees_all_writes and age_s > max(self._check_s, _SHARE * self._took_s)


def read_in_background(what: str, read: Callable[[], None], lock: threading.Lock) -> None:
    """Read again in a background thread, unless the lock holder does so already.

    Args:
        what: Name of the data, for the log message if the read fails.
        read: Function that reads it.
        lock: Lock held until the read ends.
    """
    if not lock.acquire(blocking=False):
        return

    def run() -> None:
        try:
            read()
        except CocaError as error:
            logger.warning("%s in memory stay as they were, since %s", what, error)
        finally:
            lock.release()

    threading.Thread(target=run, name="re-read of a collection", daemon=True).start()
