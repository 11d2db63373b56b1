"""Migrate a collection between Milvus instances through Parquet files, resumably."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from coca.core.errors import ArgumentError, SearchError, StorageError
from coca.core.files.atomic import append_line, write_atomic
from coca.core.progress import ProgressMaker, silent
from coca.search import records
from coca.search.ingest.parquet import read_vectors, write_vectors
from coca.search.milvus.collection import Collection
from coca.search.milvus.rows import row_digest, to_row
from coca.search.records import Record, batches, check_same_model

_PART_ROWS = 5_000
_MAX_PASSES = 10
"""Maximum number of passes over a source that changes."""


@dataclass(frozen=True)
class MigrateReport:
    """Counts of a migration."""

    records: int
    """Number of records of the source, all of which are in the target now."""
    written: int
    """Number of records that this run wrote; an earlier run may have written others."""
    kept: int
    """Number of records that differ in the target, and were kept there."""
    folder: Path | None
    """Folder of the files, if they were kept."""


def migrate(
    source: Collection,
    target: Collection,
    folder: str | Path,
    *,
    keep_files: bool = False,
    overwrite: bool = False,
    progress: ProgressMaker = silent,
) -> MigrateReport:
    """Copy every record of a collection to another, and verify that none is missing.

    The calibration of match scores is copied to a target that has none.
    An interrupted run resumes: complete files are reused, and flushed files are logged. Records
    that changed since, in any field, or during the run, are copied again. Nothing is deleted from
    either collection. Records of the target that differ, and that this migration has not written,
    are kept: they may be newer.
    """
    if source.is_same(target):
        raise ArgumentError(
            f"source and target are the same collection, {source.own_name!r} of {source.info.uri}: "
            "name another URI or another collection"
        )
    check_same_model(
        target.info, fingerprint=source.info.fingerprint, embed_dim=source.info.embed_dim
    )
    folder = Path(folder)
    _claim(folder, source, target)
    guarded = not overwrite and target.count() > 0
    written, kept = 0, set[str]()
    before: dict[str, bytes] | None = None
    for _ in range(_MAX_PASSES):
        # The count first: a write during the reading may not be in the digests.
        writes = source.writes
        now = source.digests()
        ids = sorted(now)
        if now == before:
            break
        before = now
        files, rows = _export(source, ids, folder, progress)
        new, differing = _import(target, files, folder, rows, progress, guarded=guarded)
        written, kept = written + new, kept | differing
        if source.sees_all_writes and source.writes == writes:
            break
    else:
        raise SearchError(
            f"{source.info.collection!r} of {source.info.uri} changes faster than it is copied: "
            "stop its writers and migrate again"
        )
    if missing := set(ids) - set(target.ids()):
        raise SearchError(
            f"{len(missing):,} of {len(ids):,} records did not come into "
            f"{target.info.collection!r} of {target.info.uri}, such as {min(missing)}: "
            f"remove {folder} and migrate again"
        )
    if source.info.calibration and not target.info.calibration:
        target.keep_calibration(source.info.calibration)
    if not keep_files:
        shutil.rmtree(folder)
    return MigrateReport(len(ids), written, len(kept), folder if keep_files else None)


def _claim(folder: Path, source: Collection, target: Collection) -> None:
    """Check that the folder is not of another migration, and mark it."""
    ours = {
        end: {"uri": collection.info.uri, "collection": collection.own_name}
        for end, collection in (("source", source), ("target", target))
    }
    ours["source"]["fingerprint"] = source.info.fingerprint
    note = folder / "migration.json"
    if not note.exists():
        if folder.exists() and any(folder.iterdir()):
            raise SearchError(f"{folder} has other files: name an empty folder for the migration")
        write_atomic(note, json.dumps(ours, indent=1).encode())
        return
    try:
        theirs = json.loads(note.read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{note} cannot be read: {error}") from error
    if theirs != ours:
        raise SearchError(
            f"{folder} belongs to another migration ({note} names it): name another folder"
        )


def _export(
    source: Collection, ids: list[str], folder: Path, progress: ProgressMaker
) -> tuple[list[Path], int]:
    """Export records to Parquet files; return the files and their total rows.

    Only records that no file has in their current state are exported. Of a record in several files,
    the last file has the current state.
    """
    files = sorted(folder.glob("records-*.parquet"))
    there: dict[str, bytes] = {}
    rows = 0
    for file in files:
        read = list(read_vectors(file))
        there |= {record.id: _digest(record) for record in read}
        rows += len(read)
    if gone := there.keys() - set(ids):
        raise SearchError(
            f"{source.info.collection!r} lost {len(gone):,} records since the migration began: "
            f"remove {folder} and migrate again"
        )
    now = {}
    if there:
        now = {one.id: _digest(one) for part in source.read_through() for one in part}
    due = [id for id in ids if id not in there or there[id] != now.get(id)]
    missing = iter(due)
    with progress("read records", len(ids)) as bar:
        bar.advance(len(ids) - len(due))
        while part := list(islice(missing, _PART_ROWS)):
            found = source.get(part)
            if len(found) < len(part):
                raise SearchError(
                    f"{source.info.collection!r} lost records while it was read: "
                    f"remove {folder} and migrate again"
                )
            file = folder / f"records-{len(files):06}.parquet"
            write_vectors(file, list(found.values()))
            files.append(file)
            bar.advance(len(part))
    return files, rows + len(due)


def _digest(record: Record) -> bytes:
    """Compute a 16-byte digest of all fields of a record, vectors included."""
    fields = to_row(record) | {records.TEXT_VECTOR: record.text_vector}
    digest = hashlib.sha256()
    for vector in (records.VECTOR, records.TEXT_VECTOR):
        value = fields.pop(vector)
        digest.update(b"none" if value is None else np.asarray(value, np.float32).tobytes())
    digest.update(json.dumps(fields, sort_keys=True).encode())
    return digest.digest()[:16]


def _import(
    target: Collection,
    files: list[Path],
    folder: Path,
    total: int,
    progress: ProgressMaker,
    *,
    guarded: bool,
) -> tuple[int, set[str]]:
    """Write records that no earlier run wrote; return their number and the ids of kept ones."""
    written_log = folder / "written.txt"
    done = set(written_log.read_text().splitlines()) if written_log.exists() else set()
    written = 0
    kept: set[str] = set()
    # Id -> digests of the record in the files so far.
    ours: dict[str, set[bytes]] = {}
    with progress("write records", total) as bar:
        for file in files:
            read = list(read_vectors(file))
            if guarded:
                for record in read:
                    ours.setdefault(record.id, set()).add(row_digest(to_row(record)))
            if file.name not in done:
                for batch in batches(read, 1_000):
                    there = target.digests(record.id for record in batch) if guarded else {}
                    differing = {id for id, digest in there.items() if digest not in ours[id]}
                    target.upsert(record for record in batch if record.id not in differing)
                    kept |= differing
                    written += len(batch) - len(differing)
                # Logged only when the rows survive a crash of the machine, not only of the process.
                target.flush()
                append_line(written_log, file.name)
            bar.advance(len(read))
    return written, kept
