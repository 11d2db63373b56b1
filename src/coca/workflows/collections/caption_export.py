"""Export of captions, tags, names of people and favourites: XMP sidecars, CSV or JSON lines."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coca.core.annotations import XMP_SUFFIX
from coca.core.errors import CocaError, DataError
from coca.core.files.atomic import write_atomic
from coca.core.files.local_files import read_regular
from coca.core.files.table_file import TABLE_SUFFIXES, check_table_path, write_table
from coca.core.progress import progress_bar
from coca.search.ingest.exif import clean
from coca.search.ingest.photo_metadata import MAX_XMP_BYTES, Xmp
from coca.search.ingest.xmp_packet import EMPTY_PACKET, replace_properties
from coca.search.records import (
    CAPTION,
    CAPTION_SOURCE,
    FAVOURITE,
    MAX_BYTES,
    PEOPLE,
    TAGS,
    Record,
    metadata_texts,
)
from coca.search.store import Collection
from coca.workflows.collections.image_resolver import is_within

_COLUMNS = ("image", CAPTION, CAPTION_SOURCE, TAGS, PEOPLE)
_PERSONS = "Iptc4xmpExt:PersonInImage"


@dataclass(kw_only=True)
class CaptionExport:
    """Summary of an export."""

    written: list[str] = field(default_factory=list)
    """Paths of the files that were written, or would be."""
    unchanged: int = 0
    """Number of images with nothing to write that their sidecars lack."""
    without_file: int = 0
    """Number of images inside other files or behind URLs, which have no sidecars."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each sidecar that cannot be written."""


def export_captions(
    collection: Collection,
    out: str | Path | None = None,
    *,
    generated: bool = False,
    dry_run: bool = False,
) -> CaptionExport:
    """Write what people say about images to files of their own; the images are not changed.

    The sidecar of `cat.jpg` is `cat.jpg.xmp`. In one that exists, a property is replaced only if
    people edited it in the collection; all other bytes stay. Each file is written as a whole.

    Args:
        collection: Collection to export.
        out: Folder of the sidecars, in the folders that the images have below their common one; or
            a table (`.csv`, `.jsonl`, `.parquet`), which `coca index` reads. Default: next to the
            images.
        generated: Export generated captions as well.
        dry_run: Write nothing.

    Raises:
        ConfigError, StorageError: The table cannot be written.
    """
    report, out = CaptionExport(), None if out is None else Path(out)
    if out is not None and out.suffix.lower() in TABLE_SUFFIXES:
        check_table_path(out)
        rows = [_row(record, generated) for record in _records(collection)]
        columns = {name: [row[at] for row in rows] for at, name in enumerate(_COLUMNS)}
        if out.suffix.lower() == ".csv":
            columns |= {name: list(map(",".join, columns[name])) for name in (TAGS, PEOPLE)}
        if not dry_run:
            write_table(out, columns)
        report.written.append(str(out))
        return report
    shared = ""
    if out is not None:
        paths = (record.path for record in _records(collection) if _is_file(record))
        shared = os.path.commonpath({os.path.dirname(path) for path in paths} or {os.sep})
    with progress_bar("export captions", len(collection)) as bar:
        for record in _records(collection):
            bar.advance()
            if not _is_file(record):
                report.without_file += 1
                continue
            target = Path(record.path + XMP_SUFFIX)
            try:
                if out is not None:
                    target = out / target.relative_to(shared)
                elif not os.path.isfile(record.path):
                    raise DataError("the image is missing", reason="missing")
                packet = read_regular(target, max_bytes=MAX_XMP_BYTES) if target.exists() else b""
                new = _written(packet, record, generated)
                if new == packet:
                    report.unchanged += 1
                    continue
                if not dry_run:
                    write_atomic(target, new)
                report.written.append(str(target))
            except (CocaError, OSError) as error:
                report.bad.append((str(target), str(error)))
    return report


def _records(collection: Collection) -> Iterator[Record]:
    return (one for page in collection.pages(vectors=False) for one in page if one.path)


def _is_file(record: Record) -> bool:
    return os.path.isabs(record.path) and not is_within(record.path, record.origin.etag)


def _caption(record: Record, generated: bool) -> str:
    return record.caption if generated or record.caption_source == "given" else ""


def _row(record: Record, generated: bool) -> tuple[Any, ...]:
    caption = _caption(record, generated)
    source = record.caption_source if caption else ""
    return record.path, caption, source, list(record.tags), metadata_texts(record.metadata, PEOPLE)


def _written(packet: bytes, record: Record, generated: bool) -> bytes:
    """Write a record to its sidecar; unchanged if the sidecar says the same."""
    xmp = Xmp.parse(packet) or Xmp()
    most = MAX_BYTES[CAPTION]
    caption = clean(_caption(record, generated), most)
    tags = (clean(tag) for tag in record.tags if tag != FAVOURITE)
    people = [clean(name) for name in metadata_texts(record.metadata, PEOPLE)]
    values: dict[str, tuple[str, list[str], list[str]]] = {
        "dc:description": (CAPTION, [caption], [xmp.text("dc:description", most=most)]),
        "dc:subject": (TAGS, [*tags], xmp.texts("dc:subject")),
        _PERSONS: (f"metadata.{PEOPLE}", people, xmp.texts(_PERSONS)),
    }
    new = {
        name: [text for text in texts if text]
        for name, (edit, texts, there) in values.items()
        if {*texts, ""} != {*there, ""} and (not any(there) or edit in record.unedited)
    }
    label = xmp.text("xmp:Label")
    if FAVOURITE in record.tags and not label:
        new["xmp:Label"] = [FAVOURITE]
    elif label == FAVOURITE and FAVOURITE not in record.tags:
        new["xmp:Label"] = []
    return replace_properties(packet or EMPTY_PACKET, new) if new else packet
