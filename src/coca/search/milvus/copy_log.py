"""Log of the records that changed since the copy of a collection of Milvus Lite was written.

The copy, see `coca.search.query.saved_copy`, is right as long as the files of the collection are
as they were. The process that has the folder open knows all its own writes, and notes them with
the new state of the files when it closes the folder. Writes of other programs change the files
without a note, and so does a process that is killed: the copy is then not used any more.
"""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coca.core.errors import StorageError
from coca.core.files.atomic import write_atomic

FOLDER, ABOUT = "copy", "copy.json"
CALIBRATION = "coca.calibration"
"""Property of a collection with the calibration of match scores."""


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
    for path in database.glob(f"collections/*/{FOLDER}/{ABOUT}"):
        folder = path.parent.parent
        state = FileState.of(folder)
        if state is not None and _read(path).get("stamp") == state.stamp:
            found[folder.name] = state
    return found


def note_changes(folder: Path, stamp: str, ids: Iterable[str], last_write: int) -> None:
    """Note which records changed since the state that the copy is of; the folder is closed.

    Nothing is noted, so that the copy is not used any more, if others wrote as well.
    """
    about, after = _read(folder / FOLDER / ABOUT), FileState.of(folder)
    if about.get("stamp") != stamp or after is None or after.last_write != last_write:
        return
    if after.stamp != stamp:
        changed = sorted({*about["changed"], *ids})
        text = json.dumps(about | {"stamp": after.stamp, "changed": changed})
        with suppress(StorageError):
            write_atomic(folder / FOLDER / ABOUT, text.encode())


def _read(path: Path) -> dict[str, Any]:
    """Read a description of a copy; empty if it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
