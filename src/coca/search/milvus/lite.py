"""Milvus Lite: lock, lifetime and change log of a folder.

Milvus Lite runs inside this process. It allows one process a folder and does not report that
reason. It loses acknowledged rows when two threads write at once, and keeps its lock after the
client is closed. After a kill it may have rows twice, or a part of an index file, with which it
does not load the collection. This module works around all six.

The copy of a collection on disk, see `coca.search.query.saved_copy`, is right as long as the files
of the collection are as they were. The process that has the folder open knows all its own writes,
and notes them with the new state of the files when it closes the folder. Writes of other programs
change the files without a note, and so does a process that is killed: the copy is then not used.
"""

import atexit
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from coca.core.errors import ArgumentError, CocaError, SearchError, StorageError
from coca.core.extras import require
from coca.core.files.atomic import write_atomic

CALIBRATION = "coca.calibration"
"""Property of a collection with the calibration of match scores."""

# Log of the records that changed since the copy of a collection was written.


COPY_FOLDER, COPY_ABOUT = "copy", "copy.json"


@dataclass(frozen=True)
class FileState:
    """State of the files of a collection without a log of unflushed writes."""

    stamp: str
    """Digest of the files that change with each write: the manifest, which lists all other files,
    and the schema, which has the calibration."""
    last_write: int
    """Sequence number of the last write. Each row that is written takes one, and each deletion."""

    @classmethod
    def of(cls, folder: Path) -> "FileState | None":
        """Read the state of a collection; None if it has unflushed writes, or cannot be read."""
        try:
            if any((folder / "wal").glob("*")):
                return None
            parts = [(folder / name).read_text() for name in ("manifest.json", "schema.json")]
            last_write = int(json.loads(parts[0])["current_seq"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(hashlib.sha256(json.dumps(parts).encode()).hexdigest(), last_write)


def folder_of(database: Path, own_name: str) -> Path:
    """Return the folder of a collection of Milvus Lite."""
    return database / "collections" / own_name


def calibration_of(folder: Path) -> str:
    """Read the calibration of a collection from its files; empty without."""
    schema = json.loads((folder / "schema.json").read_text())
    return str(schema["properties"].get(CALIBRATION, ""))


def current_copies(database: Path) -> dict[str, FileState]:
    """Find the collections whose copy is right, by own name, with the state of their files."""
    found = {}
    for path in database.glob(f"collections/*/{COPY_FOLDER}/{COPY_ABOUT}"):
        folder = path.parent.parent
        state = FileState.of(folder)
        if state is not None and _read(path).get("stamp") == state.stamp:
            found[folder.name] = state
    return found


def note_changes(folder: Path, stamp: str, ids: Iterable[str], last_write: int) -> None:
    """Note which records changed since the state that the copy is of; the folder is closed.

    Nothing is noted, so that the copy is not used any more, if others wrote as well.
    """
    about, after = _read(folder / COPY_FOLDER / COPY_ABOUT), FileState.of(folder)
    if about.get("stamp") != stamp or after is None or after.last_write != last_write:
        return
    if after.stamp != stamp:
        changed = sorted({*about["changed"], *ids})
        text = json.dumps(about | {"stamp": after.stamp, "changed": changed})
        with suppress(StorageError):
            write_atomic(folder / COPY_FOLDER / COPY_ABOUT, text.encode())


def _read(path: Path) -> dict[str, Any]:
    """Read a description of a copy; empty if it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# Change log of a collection: a journal of writes, and staleness checks for in-memory copies.


logger = logging.getLogger(__name__)

_REMEMBERED_IDS = 100_000
_SHARE = 20
"""A copy is read again at so many times the age of its read time: 5 % of the time."""


class Journal:
    """Thread-safe journal of the ids that were written or deleted, in order.

    Attributes:
        writes: Number of ids so far.
        last_write: On Lite the sequence number of the last write, unless others write as well; see
            `FileState`.
    """

    def __init__(self, last_write: int = 0) -> None:
        self.writes, self.last_write = 0, last_write
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

    def __init__(self, collection: Counted, check_s: float) -> None:
        """Watch a collection; `check_s` is the minimum interval of checks, in seconds."""
        self._collection = collection
        self._check_s = check_s
        self._looked_s = self._read_s = time.monotonic()
        self._took_s = 0.0

    @contextmanager
    def reading(self) -> Iterator[int]:
        """Time a full read; yield the number of writes that the copy includes."""
        began_s = time.monotonic()
        try:
            yield self._collection.writes
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
        return self._collection.count() != count

    def is_old(self) -> bool:
        """Return whether a full re-read is due, for replacements by other clients."""
        age_s = time.monotonic() - self._read_s
        return not self._collection.sees_all_writes and age_s > max(
            self._check_s, _SHARE * self._took_s
        )


def read_in_background(what: str, read: Callable[[], None], lock: threading.Lock) -> None:
    """Read again in a background thread, unless the lock holder does so already."""
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


# Lock and lifetime of a Milvus Lite folder.


MIN_FREE_BYTES = 64 << 20
"""Free disk space below which rows are not written, so that what was written stays readable."""
MIN_FREE_TO_DELETE = 8 << 20
"""As `MIN_FREE_BYTES`, of deletions, which are small and make space."""

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}(/\w*)?")


def address_of(uri: str) -> str:
    """Normalize a URI to the form that Milvus takes.

    `localhost:19530` is a server. A path may begin with `~` or `file:`.

    Example:
        >>> address_of("localhost:19530"), address_of("file:///data/pictures.db")
        ('http://localhost:19530', '/data/pictures.db')
    """
    uri = uri.strip()
    if not uri:
        raise ArgumentError(f"the URI of a collection is empty; {_ALLOWED}")
    if uri.lower().startswith("file:"):
        # file:/x, file:///x and file://localhost/x are one path; file:x is a relative one.
        uri = re.sub(r"(?i)^file:(//(localhost)?(?=/))?", "", uri)
    if _HOST_AND_PORT.fullmatch(uri) and not uri.endswith(".db"):
        return f"http://{uri}"
    return os.path.expanduser(uri) if is_lite(uri) else uri


def is_lite(uri: str) -> bool:
    """Return whether the URI is a local folder and not a server."""
    return "://" not in uri and not uri.startswith("unix:")


def check_folder(uri: str) -> bool:
    """Return whether the folder exists; always true for a server, which is not contacted."""
    address = address_of(uri)
    if not is_lite(address):
        return True
    path = Path(os.path.realpath(address))
    if path.is_dir():
        return True
    _check_suffix(path)
    return path.exists()


@dataclass
class Lease:
    """Lock of this process on one folder, shared by all its clients in the process."""

    path: Path
    write_lock: AbstractContextManager[bool] = field(default_factory=threading.RLock)
    """Lock to hold during each write: Lite does not lock its log."""
    users: int = 0
    journals: dict[str, Journal] = field(default_factory=dict)
    """Collection -> journal of its writes since the folder was locked."""
    copies: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Collection with a copy on disk -> state of the files that the copy is of, see `FileState`,
    and number of writes in the journal that it includes."""
    owner: int = field(default_factory=os.getpid)
    """Id of the process that took the lock."""
    has_log: bool = False
    """Whether a killed process left a log. Lite 3.2 has rows twice if that happened behind a flush,
    before the log was deleted: until the next flush."""
    failed_flushes: set[str] = field(default_factory=set)
    """Collections whose last flush failed; not written until the folder is opened again."""
    failed_writes: set[str] = field(default_factory=set)
    """Collections whose log may end in a part of a row; a flush begins another log."""

    @classmethod
    def take(cls, uri: str, *, create: bool) -> "Lease":
        """Lock the folder; each `take` needs one `release`."""
        path = Path(os.path.realpath(uri))
        with _guard:
            if path not in _leases:
                _prepare(path, create)
                check_free(path)
                _remove_unfinished_indexes(path)
                lease = cls(path, has_log=any(path.glob("collections/*/wal/*.arrow")))
                for name, state in current_copies(path).items():
                    lease.copies[name] = (state.stamp, 0)
                    lease.journals[name] = Journal(state.last_write)
                _leases[path] = lease
            lease = _leases[path]
            lease.users += 1
        return lease

    def journal(self, collection: str) -> Journal:
        """Return the journal of all writes to a collection of the folder."""
        with _guard:
            if collection not in self.journals:
                state = FileState.of(folder_of(self.path, collection))
                self.journals[collection] = Journal(state.last_write if state else -1)
            return self.journals[collection]

    def release(self) -> None:
        """Release the lock; the last client of the process stops Lite, which writes to disk."""
        with _guard:
            self.users -= 1
            if self.users == 0:
                del _leases[self.path]
                manager = require("milvus_lite.server_manager", extra="search")
                manager.server_manager_instance.release_server(str(self.path))
                (self.path / _OPENED).unlink(missing_ok=True)
                self._note_changes()

    def state_of(self, collection: str) -> FileState | None:
        """Read the state of a collection that was flushed; None if others write as well."""
        state = FileState.of(folder_of(self.path, collection))
        known = self.journal(collection).last_write
        return state if state is not None and state.last_write == known else None

    def _note_changes(self) -> None:
        """Note what was written since the copies on disk; the folder is closed."""
        # Others that have opened the folder since then change its files.
        with suppress(SearchError), _locked(self.path):
            for collection, (stamp, writes) in self.copies.items():
                journal = self.journals[collection]
                if (ids := journal.since(writes)) is not None:
                    folder = folder_of(self.path, collection)
                    note_changes(folder, stamp, ids, journal.last_write)

    def check_space(self, collection: str, *, needed: int | None = None) -> None:
        """Check before a write that the disk has space and that no earlier flush failed.

        A flush that fails hides its rows, and the next one would delete their log, which alone
        still has them. Opening the folder again reads the log.
        """
        if collection in self.failed_flushes:
            raise StorageError(
                f"writing to {self.path} failed on a full disk, and rows of {collection!r} are in "
                "its log only: free some space and open it again"
            )
        check_space(self.path, needed)


def check_space(folder: Path, needed: int | None = None) -> None:
    """Check that the disk of a folder, which need not exist, has free space."""
    needed = MIN_FREE_BYTES if needed is None else needed
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StorageError(
            f"the disk of {folder.name} has {free:,} free bytes, and at least {needed:,} are "
            "needed to write"
        )


_ALLOWED = "it must be a path that ends in .db, or a server such as http://localhost:19530"

_OPENED = "opened"
"""File of a folder that is open; its time is that of the opening."""

_guard = threading.Lock()
_leases: dict[Path, Lease] = {}


@atexit.register
def _release_all() -> None:
    """Release the folders of collections that were not closed."""
    for lease in list(_leases.values()):
        # A forked process has the leases of its parent, which goes on.
        if lease.owner == os.getpid():
            lease.users = 1
            lease.release()


def _check_suffix(path: Path) -> None:
    if path.suffix != ".db":
        raise ArgumentError(f"{path} is not the address of a collection; {_ALLOWED}")


def _prepare(path: Path, create: bool) -> None:
    _check_suffix(path)
    if path.is_file():
        raise SearchError(
            f"{path} is a file, and Milvus Lite 3 keeps a folder: Milvus Lite 2 wrote it, "
            "and it cannot be read any more; index the images again into another path"
        )
    if create:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SearchError(f"{path} cannot be made: {error.strerror or error}") from error
    elif not path.is_dir():
        raise SearchError(f"there is no collection at {path}: `coca index FOLDER` makes one")


def _remove_unfinished_indexes(path: Path) -> None:
    """Remove the index files that a killed process wrote, and note that the folder is open.

    Lite writes them in place, without a flush to disk, and builds those that are missing.
    """
    mark = path / _OPENED
    with suppress(FileNotFoundError):
        since_s = mark.stat().st_mtime
        for index in path.glob("collections/*/partitions/*/indexes/*.*idx"):
            if index.stat().st_mtime >= since_s:
                index.unlink()
    # A full disk does not prevent searches.
    with suppress(OSError):
        mark.unlink(missing_ok=True)
        mark.write_bytes(b"")


def check_free(path: Path) -> None:
    """Check that no other process, and no other client of this process, has a Lite folder open."""
    with _locked(path):
        pass


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a Lite folder as Lite does."""
    if sys.platform == "win32":  # pragma: no cover - no flock; Lite's own message must do
        yield
        return
    import fcntl

    lock = path / "LOCK"
    with ExitStack() as stack:
        try:
            file = stack.enter_context(lock.open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SearchError(_in_use(path, _holder(lock))) from error
        except OSError as error:
            raise SearchError(
                f"{path} cannot be written: {error.strerror}; "
                "Milvus Lite writes there even for a search"
            ) from error
        yield


def _in_use(path: Path, holder: int | None) -> str:
    if holder == os.getpid():
        return (
            f"{path} is open in this process, by a client that is not of coca, and rows are "
            "lost if both write: close that client, and call "
            f"milvus_lite.server_manager.server_manager_instance.release_server({str(path)!r})"
        )
    return (
        f"{path} is in use: another process{f' (pid {holder})' if holder else ''} has it open, "
        "and Milvus Lite takes one at a time; end that process, or point --uri at a server"
    )


def _holder(lock: Path) -> int | None:
    """Find the process that holds the lock, where the system reports it (Linux)."""
    try:
        inode = lock.stat().st_ino
        # "1: FLOCK  ADVISORY  WRITE 4242 fd:01:131090 0 EOF"
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
                return int(words[4])
    except (OSError, IndexError, ValueError):
        pass
    return None
