"""SQLite file of a store: opening it, its format, and transactions of several threads.

The file is in WAL mode, in which readers and one writer do not wait for each other, also in several
processes. A transaction is on the disk when it ends (`synchronous=FULL`).
"""

import math
import os
import sqlite3
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from coca.core.cancellation import check_cancelled
from coca.core.errors import SearchError, StorageError

APPLICATION_ID = 0x436F4361
"""`CoCa` in ASCII, in the header of each file of ours."""
FORMAT = 4
"""Version of the tables, in the header as `user_version`."""
_FORMER = 3
"""Version that `coca collection check --repair` makes new: it had other derived tables."""
_SEAL_BYTES = 4
_MAGIC = b"SQLite format 3\0"
_STEPS = 100_000
"""Instructions of a query, about a millisecond of them, after which it is checked whether it is
cancelled."""
_LONG_S, _PAUSE_S, _LOOK_S = 0.02, 0.005, 0.001
"""After a transaction of more than `_LONG_S` seconds, its process pauses for `_PAUSE_S`. A process
that waits looks every `_LOOK_S` for such a pause, one with long transactions more rarely."""
_SHARED_S = 10.0
_CACHE_KIB = 8_192
_IDLE_CONNECTIONS = 4
"""Connections that stay open with their caches."""
_LOG_BYTES = 16 * 1024**2
"""Size above which the log is cut once its pages are in the file."""
_PAGE_BYTES = 8_192
"""Size of the pages of a new file: a page of 4,096 bytes has room for two vectors of 256 only once,
and the file of 100,000 records with captions is 511 MB instead of 370 MB."""
_NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs"))
"""File systems of other machines, where the shared memory of WAL does not work."""
_NO_SPACE = ("SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMOPEN")
"""Errors of SQLite where there is no space for the locks of a file, next to it."""

_CATALOG = (
    """
CREATE TABLE collections (
    name TEXT PRIMARY KEY COLLATE NOCASE, embed_dim INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    model TEXT NOT NULL, records INTEGER NOT NULL DEFAULT 0, words INTEGER NOT NULL DEFAULT 0,
    rows INTEGER NOT NULL DEFAULT 0, seq INTEGER NOT NULL DEFAULT 0,
    full_before INTEGER NOT NULL DEFAULT 0
)
""",
    "CREATE TABLE writes (seq INTEGER NOT NULL)",
    "INSERT INTO writes VALUES (0)",
)
"""`words` is the sum of the lengths of all records, `rows` the number of the next row, and `seq`
the number of the last write. Writes before `full_before` are known by a full read only. `writes`
counts the collections that were created or renamed, so that no two states have the same number."""


class DamageError(Exception):
    """What is stored cannot be right; `Database` adds the file and the remedy."""


def sealed(data: bytes) -> bytes:
    """Return derived data with its checksum, CRC-32, before it."""
    return zlib.crc32(data).to_bytes(_SEAL_BYTES, "little") + data


def unsealed(stored: Any, what: str) -> bytes:
    """Return what `sealed` received.

    Raises:
        DamageError: The data is not what was written.
    """
    if isinstance(stored, bytes):
        data = stored[_SEAL_BYTES:]
        if stored[:_SEAL_BYTES] == zlib.crc32(data).to_bytes(_SEAL_BYTES, "little"):
            return data
    raise DamageError(f"the {what} are not what was written")


class Database:
    """One SQLite file, with a connection for each transaction that runs at a time.

    Attributes:
        path: Path of the file, as it was given.
        is_former: Whether it has the former format, which only a repair opens.
    """

    def __init__(self, path: str, *, create: bool, timeout_s: float, repairs: bool = False) -> None:
        """Open the file, and create it if it is missing and `create` is true.

        With `repairs` a file of the former format is opened as well.
        """
        self.path, self._timeout_s, self._repairs = path, timeout_s, repairs
        self.is_former = False
        self._idle: list[sqlite3.Connection] = []
        self._lock, self._writer = threading.Lock(), threading.Lock()
        # Thread and connection of the transaction that writes.
        self._writes_on: tuple[int, sqlite3.Connection] | None = None
        # Whether the last transaction was long, when the next one may begin, and when one last had
        # to wait for another process.
        self._is_long, self._next_s, self._waited_s = False, 0.0, -math.inf
        self._closed = False
        # Whether the file is read without locks, and whether a full disk is the reason.
        self._immutable, self._is_full = False, False
        exists = self._check_file(create)
        self._file = os.path.abspath(path)
        self._inode = self._current_inode()
        try:
            with self.faults("open it"):
                self._prepare(create and not exists)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read one committed state of the file."""
        with self.faults("read it"), self._connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write as a whole or not at all; other writers wait.

        A write within another one of the same thread becomes a part of it.
        """
        outer = self._writes_on
        if outer is not None and outer[0] == threading.get_ident():
            yield outer[1]
            return
        deadline = time.monotonic() + self._timeout_s
        # A process that writes much in a row lets others go first.
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        if not self._writer.acquire(timeout=self._timeout_s):
            raise SearchError(self._busy())
        began_s = math.inf
        try:
            with self.faults("write it"), self._connection() as connection:
                self._begin(connection, deadline)
                began_s = time.monotonic()
                self._writes_on = threading.get_ident(), connection
                try:
                    yield connection
                    connection.commit()
                except BaseException:
                    with suppress(sqlite3.Error):
                        connection.rollback()
                    raise
                finally:
                    self._writes_on = None
        finally:
            ended_s = time.monotonic()
            self._is_long = ended_s - began_s > _LONG_S
            self._next_s = ended_s + _PAUSE_S * self._is_long
            self._writer.release()

    def _begin(self, connection: sqlite3.Connection, deadline: float) -> None:
        """Begin to write once no other process does.

        SQLite itself would look every 100 ms, and find the file between two long transactions of
        others by chance only: an edit next to two `coca migrate` took up to 4 s.
        """
        connection.execute("PRAGMA busy_timeout=0")
        try:
            while True:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    is_busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
                    if not is_busy or time.monotonic() > deadline:
                        raise
                self._waited_s = time.monotonic()
                check_cancelled()
                time.sleep(_PAUSE_S if self._is_long else _LOOK_S)
        finally:
            connection.execute(f"PRAGMA busy_timeout={round(1_000 * self._timeout_s)}")

    def is_shared(self) -> bool:
        """Return whether other processes have been writing in the last seconds."""
        return time.monotonic() < self._waited_s + _SHARED_S

    def close(self) -> None:
        """Close all connections; closing twice does nothing."""
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def faults(self, doing: str) -> Iterator[None]:
        """Convert errors of SQLite into one sentence."""
        try:
            yield
        except DamageError as error:
            raise SearchError(f"{self.path} is damaged ({error}): {self._remedy()}") from error
        except sqlite3.Error as error:
            reason = str(error)
            code = getattr(error, "sqlite_errorname", "")
            if code == "SQLITE_INTERRUPT":
                check_cancelled()
            if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise SearchError(self._busy()) from error
            is_read_only = (
                code.startswith(("SQLITE_READONLY", "SQLITE_PERM")) or "readonly" in reason
            )
            is_full = code.startswith("SQLITE_FULL") or "disk is full" in reason
            if is_full or code in _NO_SPACE or (is_read_only and self._is_full):
                raise StorageError(
                    f"the disk of {self.path} is full: nothing of this write was stored; free some "
                    "space and repeat it"
                ) from error
            if is_read_only:
                raise StorageError(
                    f"{self.path} cannot be written: the file or its folder is read-only"
                ) from error
            if code.startswith("SQLITE_CANTOPEN"):
                folder = os.path.dirname(os.path.abspath(self.path))
                reason = reason if os.access(folder, os.W_OK) else "its folder is read-only"
                raise StorageError(f"{self.path} cannot be opened: {reason}") from error
            if code.startswith("SQLITE_IOERR"):
                raise StorageError(f"the disk of {self.path} failed: {reason}") from error
            if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise SearchError(f"{self.path} is damaged ({reason}): {self._remedy()}") from error
            raise SearchError(f"SQLite could not {doing} ({self.path}): {reason}") from error

    def _remedy(self) -> str:
        return (
            f"`coca collection check --uri {self.path} --repair` makes derived data again and "
            "lists other damage; or restore a copy"
        )

    def _busy(self) -> str:
        return (
            f"another program has been writing to {self.path} for more than {self._timeout_s:g} s: "
            "wait until it is done, and repeat this"
        )

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise SearchError(f"{self.path} was closed; open it again")
            # What is written to a file without a name is lost. File systems without numbers of
            # files, such as FAT, keep those that they give out only while a file is open.
            if not self._immutable and self._current_inode() != self._inode:
                raise SearchError(
                    f"{self.path} was replaced or removed while it was open: stop all programs "
                    "that use it, and start them again"
                )
            connection = self._idle.pop() if self._idle else None
        if self._is_full:
            self._look_for_space()
        connection = connection or self._connect()
        try:
            yield connection
        finally:
            with self._lock:
                # Without locks it would keep pages that others have written since.
                keep = not (self._closed or self._immutable)
                keep = keep and len(self._idle) < _IDLE_CONNECTIONS
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _look_for_space(self) -> None:
        """Use locks again once the disk has space for them."""
        uri = f"{Path(self._file).as_uri()}?mode=rw"
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(uri, uri=True)) as probe:
            probe.execute("SELECT count(*) FROM sqlite_master")
            self._immutable = self._is_full = False

    def _connect(self) -> sqlite3.Connection:
        uri = Path(self._file).as_uri()
        # A log is of somebody who may write, and whose locks can be read.
        immutable = self._immutable and not self._has_log()
        connection = sqlite3.connect(
            f"{uri}?mode=ro&immutable=1" if immutable else f"{uri}?mode=rw",
            uri=True,
            timeout=self._timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.set_progress_handler(check_cancelled, _STEPS)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            # Else a drop or a prune of many rows would write its temporary files to the disk.
            connection.execute("PRAGMA temp_store=MEMORY")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_file(self, create: bool) -> bool:
        """Check that the file may be ours, and return whether it has content."""
        if os.path.isdir(self.path):
            raise SearchError(
                f"{self.path} is a folder, and collections are in one file: earlier versions kept "
                "them in a folder, whose images must be indexed again; name another --uri"
            )
        try:
            with open(self.path, "rb") as file:
                head = file.read(105)
        except FileNotFoundError:
            if not create:
                raise SearchError(
                    f"there is no file {self.path}: `coca index FOLDER --uri {self.path}` makes it"
                ) from None
            self._make()
            return False
        except OSError as error:
            raise StorageError(f"{self.path} cannot be opened: {error.strerror}") from error
        if not head:
            if create:
                return False
            raise SearchError(f"{self.path} is empty, and has no collections")
        own = int.from_bytes(head[68:72], "big") == APPLICATION_ID
        # A file that was just made, or whose maker was killed, has no table yet.
        new = head[103:105] == b"\0\0" or os.path.exists(f"{self.path}-wal")
        if not head.startswith(_MAGIC) or not (own or new):
            raise self._foreign()
        return True

    def _foreign(self) -> SearchError:
        return SearchError(
            f"{self.path} is a file of another program: name another --uri, such as pictures.db"
        )

    def _make(self) -> None:
        folder = os.path.dirname(self.path)
        try:
            if folder:
                os.makedirs(folder, exist_ok=True)
            with open(self.path, "ab"):
                pass
        except OSError as error:
            raise StorageError(f"{self.path} cannot be made: {error.strerror}") from error

    def _prepare(self, is_new: bool) -> None:
        """Set the mode of the file, and check or create its tables."""
        if kind := _network_of(self.path):
            raise SearchError(
                f"{self.path} is on a network drive ({kind}), where several programs cannot share "
                "a SQLite file: use a local disk, or a Milvus server"
            )
        try:
            self._set_mode()
        except sqlite3.OperationalError as error:
            self._is_full = error.sqlite_errorname in _NO_SPACE
            readable = "readonly" in str(error) or "unable to open" in str(error) or self._is_full
            if is_new or not readable or self._has_log():
                raise
            # While there is no log, nobody writes, so that the file needs no lock.
            self._immutable = True
        with self._connection() as connection:
            found = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found == 0 and tables == 0:
            self._make_tables()
        elif found != APPLICATION_ID:
            raise self._foreign()
        elif version == _FORMER:
            self.is_former = self._repairs
            if not self._repairs:
                raise SearchError(
                    f"{self.path} has format {version}, and this version of coca reads format "
                    f"{FORMAT}: `coca collection check --uri {self.path} --repair` makes it new"
                )
        elif version != FORMAT:
            side = "a newer" if version > FORMAT else "an older"
            raise SearchError(
                f"{self.path} has format {version}, and this version of coca reads format {FORMAT}:"
                f" it was written by {side} version; use that, or index the images again with "
                "another --uri"
            )

    def _current_inode(self) -> int:
        return os.stat(self._file).st_ino if os.path.exists(self._file) else -1

    def _has_log(self) -> bool:
        log = f"{os.path.realpath(self._file)}-wal"
        return os.path.exists(log) and os.path.getsize(log) > 0

    def _set_mode(self) -> None:
        with self._connection() as connection:
            connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
            # An existing file in WAL mode is not written by this.
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise SearchError(
                f"{self.path} is on a disk where several programs cannot share a SQLite file "
                f"(its journal mode stays {mode!r}), such as a network drive: use a local disk, or "
                "a Milvus server"
            )

    def _make_tables(self) -> None:
        with self.writing() as connection:
            # Another process may have been first.
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
            for statement in _CATALOG:
                connection.execute(statement)


def _network_of(path: str) -> str:
    """Return the file system of a network drive that has a path; empty for a local disk."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, system, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if len(point) >= len(best) and f"{real}/".startswith(f"{point.rstrip('/')}/"):
            best, kind = point, system
    return kind if kind in _NETWORK else ""
