"""Another model for a collection: its images embedded again, beside the older vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.core.progress import ProgressMaker, silent
from coca.search.milvus.collection import Collection
from coca.search.milvus.collection_io import WRITE_ROWS, batches
from coca.search.query.engine import Embedder
from coca.search.query.originals import OpenPicture, picture_of, read_file
from coca.search.records import Record, check_same_model


@dataclass(kw_only=True)
class ReindexReport:
    """What a run did."""

    embedded: int = 0
    """Records that this run embedded."""
    kept: int = 0
    """Those that an earlier run had embedded."""
    updated: int = 0
    """Of the kept ones those whose words, paths or other fields had changed since."""
    removed: int = 0
    """Records of the second collection that the first one does not hold any more."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each image that cannot be read any more."""


def reindex(
    source: Collection,
    embedder: Embedder,
    target: Collection,
    *,
    open_picture: OpenPicture = read_file,
    batch_size: int = 64,
    progress: ProgressMaker = silent,
) -> ReindexReport:
    """Embed the images of one collection by another model, and write them to a second one.

    Everything else of a record stays as it is. Afterwards the second collection holds the records
    of the first, and no others: what an earlier run embedded is not embedded again, but gets the
    words that it has now, and what has left the first leaves the second. A stopped run so goes on,
    and an earlier model can be gone back to. Write nothing to the first meanwhile.

    Args:
        source: The images, by any model.
        embedder: The new model.
        target: A collection of the new model, which becomes as the source is.
        open_picture: Reads the image of a path, in their order; by default files.
        batch_size: Images to embed at once.
        progress: Makes the bar to show.

    Raises:
        SearchError: The target belongs to another model, or cannot be written.
    """
    check_same_model(target.info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim)
    report = ReindexReport()
    # By path, so that each tar or video is gone through once.
    ids = [id for _, id in sorted((path, id) for id, path, _, _ in source.origins())]
    there = set(target.ids())
    with progress("embed images again", len(ids)) as bar:
        for part in batches((id for id in ids if id in there), WRITE_ROWS):
            _bring_up_to_date(part, source, embedder, target, report)
            bar.advance(len(part))
        for part in batches((id for id in ids if id not in there), batch_size):
            pictures = []
            found = source.get(part)
            for record in (found[id] for id in part if id in found):
                try:
                    pictures.append((record, picture_of(record, open_picture)))
                except DataError as error:
                    report.lost.append((record.path, str(error)))
            made = _embedded(pictures, embedder, report)
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
    """Give records that are embedded already what the source says of them now.

    The vector of an image stays: its id is the hash of its bytes.
    """
    now, then = source.get(ids), target.get(ids)
    pairs = [(now[id], then[id]) for id in ids if id in now and id in then]
    changed = {new.id: (new, old) for new, old in pairs if new != old or _says_other(new, old)}
    texts = _text_vectors([new for new, old in changed.values() if _says_other(new, old)], embedder)
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


def _says_other(new: Record, old: Record) -> bool:
    """Whether the vector of the caption is no longer that of the older record."""
    if new.text_vector is None:
        return old.text_vector is not None
    return old.text_vector is None or new.caption != old.caption


def _embedded(
    pictures: Sequence[tuple[Record, bytes]], embedder: Embedder, report: ReindexReport
) -> list[Record]:
    if not pictures:
        return []
    try:
        vectors = embedder.embed_images([image for _, image in pictures])
    except DataError as error:
        if len(pictures) == 1:
            report.lost.append((pictures[0][0].path, str(error)))
            return []
        half = len(pictures) // 2
        return [
            record
            for part in (pictures[:half], pictures[half:])
            for record in _embedded(part, embedder, report)
        ]
    texts = _text_vectors([record for record, _ in pictures], embedder)
    return [
        replace(record, vector=vector, text_vector=texts.get(record.id))
        for (record, _), vector in zip(pictures, vectors, strict=True)
    ]


def _text_vectors(
    records: Sequence[Record], embedder: Embedder
) -> dict[str, Float32[np.ndarray, " E"]]:
    """The vectors of the captions, by id, of the records that have one."""
    spoken = [record for record in records if record.text_vector is not None]
    if not spoken:
        return {}
    vectors = embedder.embed_texts([record.caption for record in spoken])
    return {record.id: vector for record, vector in zip(spoken, vectors, strict=True)}
