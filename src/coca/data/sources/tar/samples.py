"""Read samples of a tar by its index, with range requests for the needed members only."""

import zlib
from collections.abc import Mapping, Sequence

from coca.core.annotations import parse_record, parse_text, split_record
from coca.core.errors import DataError
from coca.core.files.regular_files import MAX_IMAGE_BYTES
from coca.data.sample import Sample
from coca.data.sources.tar.index import IMAGE, JSON, LABEL, TEXT, TarIndex
from coca.data.storage.remote import Range
from coca.data.storage.storage import Storage

# Members of a sample with at most this gap are read with one request.
SPAN_GAP_BYTES = 4096

ALL_COLUMNS = (IMAGE, TEXT, JSON, LABEL)
"""The members of a sample, by their column in the tar index."""


def read_tar(
    storage: Storage,
    tar: TarIndex,
    rows: Sequence[int],
    columns: Sequence[int] = ALL_COLUMNS,
) -> list[Sample | DataError]:
    """Read rows of a tar; each yields a sample or its error.

    Args:
        storage: Reader of byte ranges.
        tar: Index of the tar.
        rows: Rows of the tar.
        columns: Members of each sample to read; without `IMAGE` its image is empty.
    """
    spans = [_spans(tar, row, columns) if _fits(tar, row) else [] for row in rows]
    wanted = [span for of_row in spans for span in of_row]
    try:
        parts = iter(storage.read(tar.path, wanted) if wanted else [])
    except DataError as error:
        return [error] * len(rows)
    results: list[Sample | DataError] = []
    for row, of_row in zip(rows, spans, strict=True):
        content = {span: next(parts) for span in of_row}
        try:
            results.append(_sample(tar, row, content, columns))
        except DataError as error:
            results.append(error)
    return results


def _fits(tar: TarIndex, row: int) -> bool:
    """Return whether all members of the sample are within the size limit."""
    return int(tar.sizes[row].max()) <= MAX_IMAGE_BYTES


def _spans(tar: TarIndex, row: int, columns: Sequence[int]) -> list[Range]:
    """Compute the byte ranges of the members of a sample, merging close ranges."""
    spans: list[Range] = []
    for offset, size in sorted(
        (int(tar.offsets[row, column]), int(tar.sizes[row, column])) for column in columns
    ):
        if size <= 0:
            continue
        if spans and offset - spans[-1][1] <= SPAN_GAP_BYTES:
            spans[-1] = (spans[-1][0], offset + size)
        else:
            spans.append((offset, offset + size))
    return spans


def _sample(
    tar: TarIndex, row: int, spans: Mapping[Range, bytes], columns: Sequence[int]
) -> Sample:
    key = tar.keys[row].decode("utf-8", "surrogateescape")
    if not _fits(tar, row):
        raise DataError(
            f"a file of {key} in {tar.path} has {int(tar.sizes[row].max()):,} bytes, and at most "
            f"{MAX_IMAGE_BYTES:,} are read",
            reason="too_large",
        )
    if tar.sizes[row, IMAGE] < 0:
        raise DataError(f"{key} in {tar.path} has no image", reason="no_image")
    image, text, record, label = (
        _member(tar, row, column, key, spans) if column in columns else None
        for column in ALL_COLUMNS
    )
    origin = f"{tar.path}: {key}"
    fields = parse_record(record, f"{origin}.json") if record else {}
    captions, labels, metadata = split_record(fields, f"{origin}.json")
    if not captions and text is not None:
        captions = (parse_text(text, f"{origin}.txt").strip(),)
    if not labels and label is not None:
        labels = (parse_text(label, f"{origin}.cls").strip(),)
    return Sample(key, image or b"", captions, labels, metadata)


def _member(
    tar: TarIndex, row: int, column: int, key: str, spans: Mapping[Range, bytes]
) -> bytes | None:
    offset, size = int(tar.offsets[row, column]), int(tar.sizes[row, column])
    if size <= 0:
        return None if size < 0 else b""
    start = max(start for start, _ in spans if start <= offset)
    content = next(part for span, part in spans.items() if span[0] == start)
    content = content[offset - start : offset - start + size]
    if zlib.crc32(content) != tar.crc32s[row, column]:
        raise DataError(
            f"a file of {key} in {tar.path} differs from its checksum; the tar is damaged, or "
            "changed after its index was made",
            reason="checksum",
        )
    return content
