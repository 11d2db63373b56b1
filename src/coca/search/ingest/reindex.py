"""Reindex a collection with another model, into a staged collection that then takes its name."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coca.core.errors import DataError, SearchError
from coca.core.files.local_files import read_file
from coca.core.progress import progress_bar
from coca.search.filters import where
from coca.search.ingest.encoding import embed_each
from coca.search.ingest.merging import is_stored
from coca.search.predictor import Embedder
from coca.search.query.originals import ImageOpener, read_original
from coca.search.records import CONTENT, Record, batches
from coca.search.store import Collection, Store
from coca.search.stores import open_or_create

_MAX_PASSES = 100
"""Maximum number of comparisons with a collection that others write meanwhile."""


@dataclass(kw_only=True)
class ReindexReport:
    """Counts of a reindex run."""

    embedded: int = 0
    """Number of records that this run embedded."""
    kept: int = 0
    """Number of records that an earlier run embedded."""
    caught_up: int = 0
    """Number of records that others wrote or deleted during the run."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each image that cannot be read."""
    is_promoted: bool = False
    """Whether the new records have the name of the collection now."""


def reindex(
    store: Store,
    collection: str,
    embedder: Embedder,
    *,
    model: str = "",
    open_image: ImageOpener = read_file,
    skip_missing: bool = False,
    batch_size: int = 64,
    settings: Any = None,
) -> ReindexReport:
    """Embed the images of a collection with another model; the result then takes its name.

    The images are read again from their sources. All other fields are copied. A record without a
    path is a text, whose caption is embedded. An interrupted run resumes: records of a staged
    collection of the same model stay if they are current. Records that are written meanwhile are
    embedded as well; other writers wait while the last of them, at most one batch, are.

    Args:
        store: Store of the collection.
        collection: Its name.
        embedder: The other model.
        model: Name or folder of that model, stored with the collection.
        open_image: Reads the image of a path and etag.
        skip_missing: Promote the result even if images cannot be read; their records are dropped.
        batch_size: Images per batch.
        settings: Settings of the new collection, see `Store.create`.
    """
    old = store.open(collection)
    key = hashlib.sha256(f"{embedder.fingerprint} {embedder.embed_dim}".encode()).hexdigest()[:8]
    staged = f"{collection}_new_{key}"
    new = open_or_create(
        store,
        staged,
        embed_dim=embedder.embed_dim,
        fingerprint=embedder.fingerprint,
        model=model,
        settings=settings,
    )
    report, lost = ReindexReport(), dict[str, tuple[str, str]]()
    version = old.changes().version
    # By path, so that each tar or video is read once.
    paths = {record.id: record.path for page in old.pages(vectors=False) for record in page}
    new.delete(set(new.ids()) - paths.keys())
    due = sorted(paths, key=paths.__getitem__)

    def copy(ids: Sequence[str]) -> int:
        there = old.get(ids)
        new.delete(set(ids) - there.keys())
        done, current = _copy(list(there.values()), new, embedder, open_image, lost)
        report.embedded += done
        return current

    def is_ready() -> bool:
        nonlocal version, due
        changes = old.changes(version)
        version = changes.version
        due = sorted(old.ids() if changes.ids is None else changes.ids)
        report.caught_up += len(due)
        if len(due) > batch_size:
            return False
        copy(due)
        due = []
        report.lost = sorted(lost.values())
        if lost and not skip_missing:
            return False
        new.delete(lost)
        return True

    for number in range(_MAX_PASSES):
        with progress_bar("embed images again", len(due)) as bar:
            for ids in batches(due, batch_size):
                current = copy(ids)
                report.kept += 0 if number else current
                bar.advance(len(ids), lost=len(lost))
        new.flush()
        # Others wait for what they changed since, unless it is much.
        report.is_promoted = store.promote(staged, collection, is_ready=is_ready)
        if report.is_promoted or (report.lost and not due):
            return report
    raise SearchError(
        f"{collection!r} of {store.uri} changes faster than it is embedded: stop its writers and "
        "reindex again"
    )


def _copy(
    records: Sequence[Record],
    new: Collection,
    embedder: Embedder,
    open_image: ImageOpener,
    lost: dict[str, tuple[str, str]],
) -> tuple[int, int]:
    """Bring records into the staged collection.

    Returns:
        The number of embedded records, and of those that were current.
    """
    there = new.get(record.id for record in records)
    due = [record for record in records if not is_stored(record, there.get(record.id))]
    contents = sorted({record.content for record in due if record.content})
    pages = new.pages(where(CONTENT, "in", contents)) if contents else ()
    vectors = {record.content: record.vector for page in pages for record in page}
    images: dict[str, bytes] = {}
    reasons: dict[str, str] = {}
    for record in sorted(due, key=lambda record: record.path):
        key = record.content or record.id
        if record.path and key not in vectors and key not in images:
            try:
                images[key] = read_original(record, open_image)
            except DataError as error:
                reasons[key] = str(error)
    for key, answer in zip(images, embed_each(embedder, list(images.values())), strict=True):
        if isinstance(answer, DataError):
            reasons[key] = str(answer)
        else:
            vectors[key] = answer
    captions = sorted({one.caption for one in due if one.text_vector is not None or not one.path})
    embedded = embedder.embed_texts(captions) if captions else ()
    texts = dict(zip(captions, embedded, strict=True))
    made = []
    for record in due:
        vector = vectors.get(record.content or record.id) if record.path else texts[record.caption]
        if vector is None:
            lost[record.id] = (record.path, reasons[record.content or record.id])
            continue
        lost.pop(record.id, None)
        text_vector = None if record.text_vector is None else texts[record.caption]
        made.append(replace(record, vector=vector, text_vector=text_vector))
    new.upsert(made)
    return len(made), len(records) - len(due)
