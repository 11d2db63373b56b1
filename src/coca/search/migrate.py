"""Moving a collection between any two places through Parquet, and going on after any stop."""

import json
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from coca.core.errors import SearchError, StorageError
from coca.core.files import append_line, write_atomic
from coca.core.progress import ProgressMaker, silent
from coca.search.collection import batches
from coca.search.milvus import Index
from coca.search.record_files import read_origins, read_records, write_records
from coca.search.records import check_same_model

_PART_ROWS = 5_000


@dataclass(frozen=True)
class MigrateReport:
    """What a migration did."""

    records: int
    """Records of the source, all of which are in the target now."""
    written: int
    """Those that this run wrote; an earlier run may have written others."""
    folder: Path | None
    """Where the files are, if they were kept."""


def migrate(
    source: Index,
    target: Index,
    folder: str | Path,
    *,
    keep_files: bool = False,
    progress: ProgressMaker = silent,
) -> MigrateReport:
    """Copy every record of one collection into another, and check that all of them came.

    What a stopped run did is not done again: whole files stay, and files whose records were flushed
    to the target are noted; records whose path, caption or origin have changed since are copied
    anew. Nothing is removed from either collection. Write nothing to the source while it runs.

    Args:
        source: Where the records are.
        target: Where they go, made for the same model.
        folder: For the files of this migration; of no other one.
        keep_files: Leave the files there, as a copy of the collection.
        progress: Makes the bars to show.

    Raises:
        SearchError: The collections belong to different models, the folder to another migration,
            the source changed meanwhile, or records are missing in the target.
        StorageError: The folder cannot be written, or a file in it is damaged.
    """
    check_same_model(
        target.info, fingerprint=source.info.fingerprint, embed_dim=source.info.embed_dim
    )
    folder = Path(folder)
    _claim(folder, source, target)
    ids = source.ids()
    files, rows = _export(source, ids, folder, progress)
    written = _import(target, files, folder, rows, progress)
    if missing := set(ids) - set(target.ids()):
        raise SearchError(
            f"{len(missing):,} of {len(ids):,} records did not come into "
            f"{target.info.collection!r} of {target.info.uri}, such as {min(missing)}: "
            f"remove {folder} and migrate again"
        )
    if not keep_files:
        shutil.rmtree(folder)
    return MigrateReport(len(ids), written, folder if keep_files else None)


def _claim(folder: Path, source: Index, target: Index) -> None:
    """Refuse the folder of another migration."""
    ours = {
        end: {"uri": index.info.uri, "collection": index.info.collection}
        for end, index in (("source", source), ("target", target))
    }
    ours["source"]["fingerprint"] = source.info.fingerprint
    note = folder / "migration.json"
    if not note.exists():
        if folder.exists() and any(folder.iterdir()):
            raise SearchError(f"{folder} holds other files: name an empty folder for the migration")
        write_atomic(note, json.dumps(ours, indent=1).encode())
        return
    try:
        theirs = json.loads(note.read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{note} cannot be read: {error}") from error
    if theirs != ours:
        raise SearchError(
            f"{folder} belongs to another migration ({note} tells which): name another folder"
        )


def _export(
    source: Index, ids: list[str], folder: Path, progress: ProgressMaker
) -> tuple[list[Path], int]:
    """The files with all records, and their rows; only what no file has as it is now is read.

    Of a record that stands in several files, the last one has it as it is.
    """
    files = sorted(folder.glob("records-*.parquet"))
    parts = [read_origins(file) for file in files]
    there = {id: words for part in parts for id, *words in part}
    if gone := there.keys() - set(ids):
        raise SearchError(
            f"{source.info.collection!r} lost {len(gone):,} records since the migration began: "
            f"remove {folder} and migrate again"
        )
    now = {id: words for id, *words in source.origins()} if there else {}
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
            write_records(file, list(found.values()))
            files.append(file)
            bar.advance(len(part))
    return files, sum(map(len, parts)) + len(due)


def _import(
    target: Index, files: list[Path], folder: Path, total: int, progress: ProgressMaker
) -> int:
    """Write what no earlier run has written; returns how many records these were."""
    ledger = folder / "written.txt"
    done = set(ledger.read_text().splitlines()) if ledger.exists() else set()
    written = 0
    with progress("write records", total) as bar:
        for file in files:
            records = read_records(file)
            if file.name not in done:
                for batch in batches(records, 1_000):
                    target.upsert(batch)
                # Noted only when the rows outlive the machine, not the process alone.
                target.flush()
                append_line(ledger, file.name)
                written += len(records)
            bar.advance(len(records))
    return written
