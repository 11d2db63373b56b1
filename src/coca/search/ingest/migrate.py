"""Migrate a collection from one store to another, in either direction, resumably."""

from collections.abc import Iterator
from dataclasses import dataclass

from coca.core.errors import ArgumentError, SearchError
from coca.core.progress import progress_bar
from coca.search.records import Record, batches, check_same_model
from coca.search.store import Collection

_WRITE_ROWS = 1_000
_MAX_PASSES = 10
"""Maximum number of passes over a source that changes."""


@dataclass
class MigrateReport:
    """Counts of a migration."""

    records: int = 0
    """Number of records of the source, all of which are in the target now."""
    written: int = 0
    """Number of records that this run wrote; an earlier run may have written others."""
    kept: int = 0
    """Number of records that differ in the target, and were kept there."""


def migrate(
    source: Collection,
    target: Collection,
    *,
    overwrite: bool = False,
) -> MigrateReport:
    """Copy every record of a collection to another, and verify that none is missing.

    Records that the target has are compared without their vectors, so an interrupted run resumes.
    Nothing is deleted.

    Args:
        source: Collection to copy.
        target: Collection with vectors of the same model.
        overwrite: Replace records of the target that differ; otherwise they stay, as they may be
            newer. Records that change in the source during the run are replaced in any case.
    """
    if (source.info.uri, source.info.collection) == (target.info.uri, target.info.collection):
        raise ArgumentError(
            f"source and target are the same collection, {source.info.collection!r} of "
            f"{source.info.uri}: name another URI or another collection"
        )
    check_same_model(
        target.info, fingerprint=source.info.fingerprint, embed_dim=source.info.embed_dim
    )
    report, version = MigrateReport(), source.changes().version
    with progress_bar("compare records", source.count()) as bar:
        due: list[str] = []
        for record, other in _pairs(source, target):
            if other is None or (overwrite and record != other):
                due.append(record.id)
            report.kept += not (overwrite or other is None or record == other)
            bar.advance()
    for _ in range(_MAX_PASSES):
        with progress_bar("write records", len(due)) as bar:
            for ids in batches(due, _WRITE_ROWS):
                report.written += target.upsert(source.get(ids).values())
                bar.advance(len(ids))
        changes = source.changes(version)
        if changes.version == version:
            break
        version = changes.version
        due = source.ids() if changes.ids is None else sorted(changes.ids)
    else:
        raise SearchError(
            f"{source.info.collection!r} of {source.info.uri} changes faster than it is copied: "
            "stop its writers and migrate again"
        )
    target.flush()
    there = set(source.ids())
    if missing := there - set(target.ids()):
        raise SearchError(
            f"{len(missing):,} of {len(there):,} records did not come into "
            f"{target.info.collection!r} of {target.info.uri}, such as {min(missing)}: "
            "migrate again"
        )
    report.records = len(there)
    return report


def _pairs(source: Collection, target: Collection) -> Iterator[tuple[Record, Record | None]]:
    """Read both collections in the order of ids; each record of the source with its counterpart."""
    others = (record for page in target.pages(vectors=False) for record in page)
    other = next(others, None)
    for page in source.pages(vectors=False):
        for record in page:
            while other is not None and other.id < record.id:
                other = next(others, None)
            yield record, other if other is not None and other.id == record.id else None
