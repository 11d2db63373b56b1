"""Reindex a collection with another model, into a second collection."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.core.progress import ProgressMaker, silent
from coca.search.ingest.prefetch import embed_each
from coca.search.milvus.collection import Collection
from coca.search.milvus.collection_io import WRITE_ROWS, batches
from coca.search.query.engine import Embedder
from coca.search.query.originals import ImageOpener, read_file, read_original
from coca.search.records import Record, check_same_model


@dataclass(kw_only=True)
class ReindexReport:
    """Counts of a reindex run."""

    embedded: int = 0
    """Number of records that this run embedded."""
    kept: int = 0
    """Number of records that an earlier run embedded."""
    updated: int = 0
    """Number of kept records whose caption, paths or other fields had changed."""
    removed: int = 0
    """Number of records deleted from the target because the source no longer has them."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each image that cannot be read."""


def reindex(
    source: Collection,
    embedder: Embedder,
    target: Collection,
    *,
    open_image: ImageOpener = read_file,
    batch_size: int = 64,
    progress: ProgressMaker = silent,
) -> ReindexReport:
    """Embed the images of a collection with another model into a target collection.

    All other fields are copied. Afterwards the target has exactly the records of the source. Images
    embedded by an earlier run are not embedded again, but their metadata is updated. Records
    missing in the source are deleted. So an interrupted run resumes, and an earlier model can be
    restored. Do not write to the source meanwhile.

    Args:
        source: Collection of the images, of any model.
        embedder: New model.
        target: Collection of the new model.
        open_image: Reads the image of a path, called in path order; by default files.
        batch_size: Images in an embedding batch.
        progress: Optional progress callback.

    Raises:
        SearchError: The target is of another model, or is not writable.
    """
    check_same_model(target.info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim)
    report = ReindexReport()
    # Sorted by path, so that each tar or video is read once.
    ids = [id for _, id in sorted((path, id) for id, path, _, _ in source.origins())]
    there = set(target.ids())
    with progress("embed images again", len(ids)) as bar:
        for part in batches((id for id in ids if id in there), WRITE_ROWS):
            _bring_up_to_date(part, source, embedder, target, report)
            bar.advance(len(part))
        for part in batches((id for id in ids if id not in there), batch_size):
            originals = []
            found = source.get(part)
            for record in (found[id] for id in part if id in found):
                try:
                    originals.append((record, read_original(record, open_image)))
                except DataError as error:
                    report.lost.append((record.path, str(error)))
            made = _embedded(originals, embedder, report)
            target.upsert(made)
            report.embedded += len(made)
            bar.advance(len(part), lost=len(report.lost))
    gone = there.difference(ids)
    target.delete(gone)
    report.removed = len(gone)
    target.flush()
    return report


def _bring_up_to_date(
    ids: Sequence[str],
    source: Collection,
    embedder: Embedder,
    target: Collection,
    report: ReindexReport,
) -> None:
    """Update embedded records with the current fields of the source.

    The image vector stays, since the id is the hash of the image's bytes.
    """
    now, then = source.get(ids), target.get(ids)
    pairs = [(now[id], then[id]) for id in ids if id in now and id in then]
    changed = {new.id: (new, old) for new, old in pairs if new != old or _caption_changed(new, old)}
    texts = _text_vectors(
        [new for new, old in changed.values() if _caption_changed(new, old)], embedder
    )
    target.upsert(
        replace(
            new,
            vector=old.vector,
            text_vector=None if new.text_vector is None else texts.get(id, old.text_vector),
        )
        for id, (new, old) in changed.items()
    )
    report.kept += len(pairs)
    report.updated += len(changed)


def _caption_changed(new: Record, old: Record) -> bool:
    """Return whether the caption vector differs from that of the older record."""
    if new.text_vector is None:
        return old.text_vector is not None
    return old.text_vector is None or new.caption != old.caption


def _embedded(
    originals: Sequence[tuple[Record, bytes]], embedder: Embedder, report: ReindexReport
) -> list[Record]:
    answers = embed_each(embedder, [image for _, image in originals])
    embedded: list[tuple[Record, Float32[np.ndarray, " E"]]] = []
    for (record, _), answer in zip(originals, answers, strict=True):
        if isinstance(answer, DataError):
            report.lost.append((record.path, str(answer)))
        else:
            embedded.append((record, answer))
    texts = _text_vectors([record for record, _ in embedded], embedder)
    return [
        replace(record, vector=vector, text_vector=texts.get(record.id))
        for record, vector in embedded
    ]


def _text_vectors(
    records: Sequence[Record], embedder: Embedder
) -> dict[str, Float32[np.ndarray, " E"]]:
    """Embed the captions of records with a caption vector; return vectors by id."""
    captioned = [record for record in records if record.text_vector is not None]
    if not captioned:
        return {}
    vectors = embedder.embed_texts([record.caption for record in captioned])
    return {record.id: vector for record, vector in zip(captioned, vectors, strict=True)}
