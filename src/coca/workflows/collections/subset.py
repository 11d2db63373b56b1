"""Export of a subset of a collection as training data: a manifest, or WebDataset shards.

A manifest contains the paths of the images. Images inside a tar, table, zip or video have no such
path; shards contain the images themselves.

Fields of a record keep their names. Information about the selection is in one field, `mined`.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from coca.core.annotations import split_record
from coca.core.errors import ConfigError, DataError, SearchError
from coca.core.files.atomic import write_atomic
from coca.core.progress import progress_bar
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.data.storage.storage import full_path, is_remote
from coca.search.query.originals import read_original
from coca.search.records import Record, batches
from coca.search.store import Collection
from coca.workflows.collections.image_resolver import ImageResolver, is_within

_READ_ROWS = 1_000
_MINED = "mined"
"""Field with the record's id and score; it replaces that of an earlier subset."""


@dataclass(kw_only=True)
class Subset:
    """Summary of a written subset."""

    written: int = 0
    """Number of images written."""
    captioned: int = 0
    """Number of written images with a caption."""
    labelled: int = 0
    """Number of written images with a label."""
    model_captions: int = 0
    """Number of model-generated captions that were left out."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """Path and error of each selected image that is no longer readable."""

    def count(self, record: Record, captions: Sequence[str], labels: Sequence[str]) -> None:
        """Count a written image."""
        self.written += 1
        self.captioned += bool(captions)
        self.labelled += bool(labels)
        self.model_captions += record.caption_source == "model" and record.caption not in captions

    @property
    def text(self) -> Literal["captions", "labels"] | None:
        """Kind of text that most images have, for training; None if they have neither."""
        if not self.captioned and not self.labelled:
            return None
        return "captions" if self.captioned >= self.labelled else "labels"


def check_out(out: str | Path) -> None:
    """Check, before any work, that a subset can be written to `out`."""
    out = Path(out)
    if out.suffix == ".jsonl":
        return
    if out.suffix and not out.is_dir():
        raise ConfigError(
            f"{out} is not a name for a subset: a manifest ends in .jsonl, and a folder for shards "
            "has no suffix"
        )
    ShardWriter(out)


def write_subset(
    out: str | Path,
    collection: Collection,
    scores: Mapping[str, float],
    *,
    model_captions: bool = False,
) -> Subset:
    """Write records with their texts as a data source for `coca pretrain`.

    Captions, labels and other fields are unchanged; `mined` contains the record's id and score. A
    manifest uses the field `image` itself, so a record's own `image` moves into `mined`. Tags
    become labels if there are no labels: indexing turned the labels of tars and tables into tags.

    Raises:
        ConfigError: As `check_out`.
        SearchError: No image is readable, or a manifest would have to reference an image inside a
            file.
    """
    check_out(out)
    out, subset, read = Path(out), Subset(), ImageResolver()
    lines: list[str] = []
    ids = list(scores)
    if out.suffix != ".jsonl":
        # Sorted by path, so that each tar or video is read once.
        ids = [hit.id for hit in sorted(collection.hits(scores), key=lambda hit: hit.path)]
    with progress_bar("copy images", len(ids)) as bar, ExitStack() as opened:
        writer = None if out.suffix == ".jsonl" else opened.enter_context(ShardWriter(out))
        for record in _records(collection, ids, subset):
            try:
                captions, labels, rest = _words(record, scores[record.id], model_captions)
                if writer is None:
                    lines.append(_line(record, captions, labels, rest, out))
                else:
                    image = read_original(record, read)
                    writer.write(Sample(record.id, image, captions, labels, rest))
                subset.count(record, captions, labels)
            except DataError as error:
                subset.lost.append((record.path, str(error)))
            bar.advance(lost=len(subset.lost))
    if lines:
        write_atomic(out, "".join(lines).encode())
    if subset.lost and not subset.written:
        raise SearchError(
            f"none of {len(subset.lost):,} selected images is readable; "
            f"the first error: {subset.lost[0][1]}"
        )
    return subset


def _line(
    record: Record,
    captions: Sequence[str],
    labels: Sequence[str],
    rest: Mapping[str, Any],
    out: Path,
) -> str:
    """Format a line of a manifest, which names the file of the image."""
    path = record.path
    if is_within(path, record.origin.etag):
        raise SearchError(
            f"{path} is part of a file, which no manifest can name: give a folder in place of "
            f"{out}, and shards with the images themselves are written there"
        )
    if not (is_remote(path) or os.path.isfile(path)):
        raise DataError(f"{path} is not a file of this machine", reason="missing")
    row: dict[str, Any] = {"key": record.id, **rest, "captions": captions}
    if labels:
        row["labels"] = labels
    if "image" in row:
        row[_MINED] = {**row[_MINED], "image": row["image"]}
    row["image"] = full_path(path)
    return json.dumps(row, ensure_ascii=False) + "\n"


def _records(collection: Collection, ids: Sequence[str], subset: Subset) -> Iterator[Record]:
    """Yield the records in this order; records deleted meanwhile count as lost."""
    for part in batches(ids, _READ_ROWS):
        found = collection.get(part)
        for id in part:
            if id in found:
                yield found[id]
            else:
                subset.lost.append((id, f"record {id} was deleted meanwhile"))


def _words(
    record: Record, score: float, model_captions: bool
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]:
    """Split a record into captions, labels and other fields."""
    captions, labels, rest = split_record(record.metadata, record.path)
    wanted = record.caption_source == "given" or model_captions
    if record.caption and record.caption not in captions and wanted:
        captions = (record.caption, *captions)
    known = {"tags": list(record.tags), "album": record.album, "time": record.time}
    fields = {name: value for name, value in known.items() if value}
    mined: dict[str, Any] = {"id": record.id, "score": round(score, 6)}
    if record.caption_source == "model" and record.caption in captions:
        mined["caption_source"] = "model"
    # The record's own fields take precedence over tags, album and time of the same name.
    return captions, labels or record.tags, {**fields, **rest, _MINED: mined}
