"""Incremental ingest into a collection: read what changed, encode new images, write batches.

A record is one path. Its id follows from the path, so a run compares each entry of its sources
with the record of the entry. Records of equal bytes share vector, generated caption and text: a
moved or copied file costs no model call. Each batch is one transaction, so a killed run can be
repeated.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from coca.core.files.local_files import doubt, is_gone
from coca.core.progress import progress_bar
from coca.search.ingest.batch_writer import BatchWriter
from coca.search.ingest.encoding import Captioner, Encoder
from coca.search.ingest.ingest_report import BadLog, IngestReport
from coca.search.ingest.known_records import KnownRecords
from coca.search.ingest.loading import Reader
from coca.search.ingest.merging import Encoded, completed, is_captioned, merged
from coca.search.ingest.parquet import read_info, read_vectors
from coca.search.ingest.photo_metadata import Annotation
from coca.search.ingest.sources import FileSource, ImageSource
from coca.search.records import Record, batches, check_same_model
from coca.search.store import Collection

logger = logging.getLogger(__name__)

_WRITE_ROWS = 1_000


def ingest(
    sources: Sequence[ImageSource],
    encoder: Encoder,
    collection: Collection,
    *,
    text_reader: Captioner | None = None,
    prune: bool = False,
    prune_empty: bool = False,
    bad_log: BadLog | None = None,
    batch_size: int = 64,
) -> IngestReport:
    """Index images and their sidecar metadata into a collection.

    Unchanged images, by size and time of the file or by the checksum in the tar, are not read
    again. The operation is idempotent. Threads read images while the model runs.

    Args:
        sources: Sources of images.
        encoder: Computes vectors and captions; its model is loaded at the first new image.
        collection: Collection of that model's vectors.
        text_reader: Reads the text inside images.
        prune: Delete the records of files that no longer exist.
        prune_empty: With `prune`, also in folders that may be those of unmounted drives.
        bad_log: Log of unreadable images.
        batch_size: Images per batch.
    """
    known = KnownRecords(sources, collection)
    files = [one for one in sources if isinstance(one, FileSource) and not one.saw_deletion]
    for top in (top for source in files for top in source.missing):
        if not known.has_below(top):
            logger.warning("%s does not exist, and the collection has no record of it", top)
    lost = known.lost(trust_empty=prune_empty)
    with progress_bar("index images", sum(len(source.entries()) for source in sources)) as bar:
        writer = BatchWriter(
            encoder,
            collection,
            known,
            bar=bar,
            batch_size=batch_size,
            text_reader=text_reader,
            bad_log=bad_log,
        )
        reader = Reader(
            known,
            encoder,
            collection,
            captions=encoder.captions and known.lacks_captions() and encoder.writes_captions(),
            texts=text_reader is not None,
            batch_size=batch_size,
        )
        for source in sources:
            for item in reader.read(source):
                writer.offer(item)
        writer.write()
        if prune:
            gone = [*lost, *_missing(writer.missing, trust_empty=prune_empty)]
            writer.report.removed += collection.delete(gone)
        elif lost:
            # Without the records that were found in another place.
            writer.report.missing = len(collection.hits(dict.fromkeys(lost, 0.0)))
        collection.flush()
    return writer.report


def ingest_vectors(files: Sequence[str | Path], collection: Collection) -> IngestReport:
    """Index records that were embedded elsewhere; no model is needed.

    Existing records with the same etag are unchanged, unless they lack a caption.
    """
    infos = [read_info(file) for file in files]
    for info in infos:
        check_same_model(collection.info, fingerprint=info.fingerprint, embed_dim=info.embed_dim)
    report = IngestReport()
    with progress_bar("index vectors", sum(info.images for info in infos)) as bar:
        for batch in batches((one for file in files for one in read_vectors(file)), _WRITE_ROWS):
            given = {record.id: record for record in batch}
            there = set[str]()

            def change(
                stored: Mapping[str, Record],
                given: Mapping[str, Record] = given,
                there: set[str] = there,
            ) -> dict[str, Record]:
                there.clear()
                there.update(stored)
                return {
                    id: _given(record, stored.get(id))
                    for id, record in given.items()
                    if id not in stored or not _is_there(record, stored[id])
                }

            written = collection.update(given, change)
            report.unchanged += len(batch) - len(written)
            report.updated += len(there & written.keys())
            report.added += len(written.keys() - there)
            bar.advance(len(batch))
        collection.flush()
    return report


def _is_there(record: Record, stored: Record) -> bool:
    """Return whether a stored record has the etag of a given one, and its caption if any."""
    same = record.origin.etag == stored.origin.etag
    return same and (not record.caption or is_captioned(stored))


def _given(record: Record, stored: Record | None) -> Record:
    """Merge a record with vectors of its own into the stored one of its path."""
    if stored is None:
        return record
    new = completed(merged(stored, record, Annotation()), Encoded.of([record]))
    is_own = new.text_vector is None and new.caption == record.caption
    return replace(new, text_vector=record.text_vector) if is_own else new


def _missing(missing: Mapping[str, str], *, trust_empty: bool) -> list[str]:
    """List the records of files that a table still references, and that no longer exist.

    Unless `trust_empty`, an empty folder is taken for that of an unmounted drive.
    """

    @cache
    def is_there(folder: str) -> bool:
        return os.path.isdir(folder) and (trust_empty or not doubt(folder))

    return [id for id, path in missing.items() if is_there(os.path.dirname(path)) and is_gone(path)]
