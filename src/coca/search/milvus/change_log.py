"""What has changed in a collection: noted by who writes, looked for by who keeps a copy."""

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
"""A copy is read anew when it is so many times as old as reading it took: 5 % of the time."""


class Journal:
    """The ids that were written or removed, in order; threads may share it.

    Attributes:
        writes: How many these were so far.
    """

    def __init__(self) -> None:
        self.writes = 0
        self._changed: deque[str] = deque(maxlen=_REMEMBERED_IDS)
        self._lock = threading.Lock()

    def note(self, ids: Sequence[str]) -> None:
        """Take note of ids that have been written or removed."""
        with self._lock:
            self._changed.extend(ids)
            self.writes += len(ids)

    def since(self, writes: int) -> list[str] | None:
        """The ids since `writes` was that number; None if they are no longer remembered."""
        with self._lock:
            newer = self.writes - writes
            if newer > len(self._changed):
                return None
            return list(islice(self._changed, len(self._changed) - newer, None))


@runtime_checkable
class Counted(Protocol):
    """A collection of which somebody keeps a copy."""

    @property
    def sees_all_writes(self) -> bool:
        """Whether `writes` counts those of everybody."""
        ...

    @property
    def writes(self) -> int:
        """How many rows were written or removed, as far as this process knows."""
        ...

    def count(self, filter: str = "") -> int:
        """How many records there are."""
        ...


class Watch:
    """Tells when a copy of a collection must be compared with Milvus.

    Milvus tells nobody that a row has been replaced. On Lite all writers are in this process and
    known; on a server the number of records is compared, and the copy is read anew now and then.
    """

    def __init__(self, index: Counted, check_s: float) -> None:
        """Watch it; `check_s` is how long nothing is asked after a look, in seconds."""
        self._index = index
        self._check_s = check_s
        self._looked_s = self._read_s = time.monotonic()
        self._took_s = 0.0

    @contextmanager
    def reading(self) -> Iterator[int]:
        """While all of the collection is read; gives the number of writes that the copy knows."""
        began_s = time.monotonic()
        try:
            yield self._index.writes
        finally:
            # Also if it failed, so that the next try waits.
            self._looked_s = self._read_s = time.monotonic()
            self._took_s = self._read_s - began_s

    def is_due(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() > self._looked_s + self._check_s

    def has_changed(self, count: int) -> bool:
        """Look: whether a copy of `count` records lacks some, or has some too many."""
        self._looked_s = time.monotonic()
        return self._index.count() != count

    def is_old(self) -> bool:
        """Whether records may have been replaced that nobody told of, and it is time to read."""
        age_s = time.monotonic() - self._read_s
        return not self._index.sees_all_writes and age_s > max(self._check_s, _SHARE * self._took_s)


def read_beside(what: str, read: Callable[[], None], lock: threading.Lock) -> None:
    """Read something anew in a thread of its own, unless whoever holds the lock does so already.

    Args:
        what: What stays as it was if reading fails, for a line in the log.
        read: Reads it.
        lock: Held until it is read.
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

    threading.Thread(target=run, name="reading a collection anew", daemon=True).start()
