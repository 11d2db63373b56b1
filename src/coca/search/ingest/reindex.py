"""Reindex a collection with another model, into a second collection."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.core.files.local_files import read_file
from coca.core.progress import ProgressMaker, silent
from coca.search.ingest.prefetch import embed_each
from coca.search.milvus.collection import Collection
from coca.search.milvus.rows import WRITE_ROWS
from coca.search.predictor import Embedder
from coca.search.query.originals import ImageOpener, read_original
from coca.search.records import Record, batches, check_same_model


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
    caught_up: int = 0
    """Number of records that were written to the source during the run, and copied as well."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each image that cannot be read."""


def reindex(
    source: Collection,
    embedder: Embedder,
    target: Collection,
    *,
    open_image: ImageOpener = read_file,
    batch_size: int = 64,
    switch: Callable[[ReindexReport], bool] | None = None,
    progress: ProgressMaker = silent,
) -> ReindexReport:
    """Embed the images of a collection with another model into a target collection.

    All other fields are copied. Afterwards the target has exactly the records of the source. Images
    embedded by an earlier run are not embedded again, but their metadata is updated. A record
    without a path is a text, whose caption is embedded. Records missing in the source are deleted.
    So an interrupted run resumes, and an earlier model can be restored.

    Records that are written to the source meanwhile are copied as well: the source is compared
    until nothing has changed, and once more after `switch`.
    """
    check_same_model(target.info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim)
    run = _Reindex(source, embedder, target, open_image, batch_size)
    run.copy(run.read_source(), progress)
    run.delete(set(target.ids()) - run.copied.keys() - run.lost.keys())
    for _ in range(_MAX_PASSES):
        if not run.catch_up(progress):
            break
    target.flush()
    if switch is not None and switch(run.report):
        # Writes through the old name fail from now on, so this ends.
        while run.catch_up(progress, switched=True):
            pass
        target.flush()
    return run.report


_MAX_PASSES = 10
"""Maximum number of comparisons before the switch; the next one comes after it in any case."""


class _Reindex:
    """State of a run: what was copied of the source, as digests of the fields.

    Attributes:
        report: Counts so far.
        copied: Id -> digest of the record that the target has.
        lost: Id -> digest of a record whose image cannot be read.
    """

    def __init__(
        self,
        source: Collection,
        embedder: Embedder,
        target: Collection,
        open_image: ImageOpener,
        batch_size: int,
    ) -> None:
        self.report = ReindexReport()
        self.copied: dict[str, bytes] = {}
        self.lost: dict[str, bytes] = {}
        self._source, self._embedder, self._target = source, embedder, target
        self._open_image, self._batch_size = open_image, batch_size
        self._writes = -1

    def read_source(self) -> dict[str, bytes]:
        """Read the digests of all records of the source."""
        # The count first: a write during the reading may not be in the digests.
        self._writes = self._source.writes
        return self._source.digests()

    def catch_up(self, progress: ProgressMaker, *, switched: bool = False) -> bool:
        """Copy what changed in the source since the last pass; return whether anything did."""
        if self._source.sees_all_writes and self._source.writes == self._writes:
            return False
        now = self.read_source()
        known = self.copied | self.lost
        due = {id: digest for id, digest in now.items() if known.get(id) != digest}
        gone = known.keys() - now.keys()
        if not due and not gone:
            return False
        if switched:
            ours = {id: self.copied[id] for id in (*due, *gone) if id in self.copied}
            there = self._target.digests([*due, *gone])
            newer = {id for id in ours.keys() | there.keys() if there.get(id) != ours.get(id)}
            self.copied |= {id: due[id] for id in newer & due.keys()}
            due = {id: digest for id, digest in due.items() if id not in newer}
            self.delete(gone - newer)
        else:
            self.delete(gone)
        for id in gone:
            self.copied.pop(id, None)
            self.lost.pop(id, None)
        self.copy(due, progress, caught_up=True)
        return True

    def copy(
        self, due: Mapping[str, bytes], progress: ProgressMaker, *, caught_up: bool = False
    ) -> None:
        """Embed or update these records of the source; `due`: id -> digest."""
        report, source = self.report, self._source
        places = source.origins(due if caught_up else None)
        # Sorted by path, so that each tar or video is read once.
        rows = sorted((path, id, origin.content) for id, path, _, origin in places if id in due)
        ids = [id for _, id, _ in rows]
        targets = self._target.origins(ids if caught_up else None)
        contents = {id: origin.content for id, _, _, origin in targets}
        # A record whose id is not its hash may have another image now.
        there = {id for _, id, content in rows if contents.get(id) == content}
        before = report.kept, report.updated
        with progress("embed images again", len(ids)) as bar:
            for part in batches((id for id in ids if id in there), WRITE_ROWS):
                _bring_up_to_date(part, source, self._embedder, self._target, report)
                self.copied |= {id: due[id] for id in part}
                bar.advance(len(part))
            for part in batches((id for id in ids if id not in there), self._batch_size):
                self._embed(part, due)
                bar.advance(len(part), lost=len(report.lost))
        if caught_up:
            report.caught_up += len(ids)
            report.kept, report.updated = before

    def delete(self, ids: set[str]) -> None:
        """Delete records that the source no longer has from the target."""
        self._target.delete(ids)
        self.report.removed += len(ids)

    def _embed(self, ids: Sequence[str], due: Mapping[str, bytes]) -> None:
        originals, texts = [], []
        found = self._source.get(ids)
        report = self.report
        for record in (found[id] for id in ids if id in found):
            if not record.path and record.caption:
                texts.append(record)
                continue
            try:
                originals.append((record, read_original(record, self._open_image)))
            except DataError as error:
                report.lost.append((record.path, str(error)))
        made = [
            *_embedded(originals, self._embedder, report),
            *_embedded_texts(texts, self._embedder),
        ]
        self._target.upsert(made)
        report.embedded += len(made)
        done = {record.id for record in made}
        self.copied |= {id: due[id] for id in ids if id in done}
        self.lost |= {id: due[id] for id in ids if id in found and id not in done}


def _bring_up_to_date(
    ids: Sequence[str],
    source: Collection,
    embedder: Embedder,
    target: Collection,
    report: ReindexReport,
) -> None:
    """Update embedded records with the current fields of the source.

    The image vector stays, since the image is the same.
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
            vector=old.vector if new.path else texts.get(id, old.vector),
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


def _embedded_texts(texts: Sequence[Record], embedder: Embedder) -> list[Record]:
    """Embed texts without an image, whose vector is that of their caption."""
    if not texts:
        return []
    vectors = embedder.embed_texts([record.caption for record in texts])
    return [
        replace(record, vector=vector, text_vector=None if record.text_vector is None else vector)
        for record, vector in zip(texts, vectors, strict=True)
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
