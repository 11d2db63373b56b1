"""Copy of a collection on disk, in its folder of Milvus Lite: opened in milliseconds.

The first search writes it, and so does `coca index`. A search reads it memory-mapped and needs
neither Milvus nor the lock of the folder. It has all fields of hits as well. Records that were
written since are read from Milvus.

copy.json            the description of the collection, the state of its files, and what was written
                     since; see `coca.search.milvus.copy_log`
ids.txt              the ids of all records, one a line, sorted
hits.jsonl           their fields, one JSON object a line
arrays.npz           where each of these lines begins, and masks of records
images, texts, sums  their vectors, see `VectorScan`: of images, of captions, and weighted sums
words                the words of the captions that people gave, see `WordIndex`

Dimensions: N records.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from coca.core.errors import CocaError
from coca.core.files.atomic import atomic_folder
from coca.search.milvus.copy_log import ABOUT, FOLDER, FileState, calibration_of, folder_of
from coca.search.milvus.lite import address_of, is_lite
from coca.search.query.copy_rows import CopyRows, CountedCaptions, HitLines, weighted_vectors
from coca.search.query.vectors import VectorScan
from coca.search.query.words import WordIndex
from coca.search.records import CollectionInfo
from coca.search.search_options import Ranking
from coca.search.vector_encoding import VectorEncoding

_VERSION = 2


@dataclass(frozen=True)
class SavedCopy:
    """An opened copy."""

    info: CollectionInfo
    folder: Path
    """Folder of the collection."""
    stamp: str
    """State of the files of the collection that the copy is of; see `FileState`."""
    rows: CopyRows
    changed: tuple[str, ...]
    """Ids of records that were written or deleted since the copy was written."""

    @property
    def is_current(self) -> bool:
        """Whether the files of the collection are in the state that the copy is of."""
        state = FileState.of(self.folder)
        return state is not None and state.stamp == self.stamp


def find_copy(uri: str, collection: str) -> SavedCopy | None:
    """Open the copy of a collection, which need not be open; None without a current copy.

    Args:
        uri: Address of the collection; only Milvus Lite has copies.
        collection: Name or alias of the collection.
    """
    address = address_of(uri)
    if not is_lite(address):
        return None
    try:
        aliases = json.loads((Path(address) / "aliases.json").read_text())
        folder = folder_of(Path(address), aliases.get(collection, collection))
        calibration = calibration_of(folder)
    except (OSError, ValueError, AttributeError):
        return None
    state = FileState.of(folder)
    saved = None if state is None else read_copy(folder, state.stamp)
    # Others may have written it while it was read.
    if saved is None or not saved.is_current:
        return None
    info = replace(saved.info, uri=uri, collection=collection, calibration=calibration)
    return replace(saved, info=info)


def read_copy(folder: Path, stamp: str) -> SavedCopy | None:
    """Open the copy of a collection in a state of its files; None if there is none, or damaged."""
    copy = folder / FOLDER
    try:
        about = json.loads((copy / ABOUT).read_text())
        if about["version"] != _VERSION or about["stamp"] != stamp:
            return None
        encoding = VectorEncoding(**about["info"]["encoding"])
        info = CollectionInfo(**about["info"] | {"encoding": encoding})
        rows = _read_rows(copy)
        if len(rows.ids) != info.count:
            raise ValueError(f"files of {len(rows.ids)} records, not of {info.count}")
        return SavedCopy(info, folder, stamp, rows, tuple(about["changed"]))
    except (CocaError, OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        # Damaged, or of another version: the collection itself is read.
        return None


def _read_rows(copy: Path) -> CopyRows:
    with np.load(copy / "arrays.npz", allow_pickle=False) as arrays:
        starts, has_text, counts = (arrays[name] for name in ("starts", "has_text", "counts"))
    ids = (copy / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1]
    rows = CopyRows(
        writes=0,
        ids=ids,
        rows={id: row for row, id in enumerate(ids)},
        exists=np.ones(len(ids), bool),
        has_text=has_text,
        images=VectorScan.open(copy / "images"),
        texts=VectorScan.open(copy / "texts"),
        captions={"given": CountedCaptions(WordIndex.open(copy / "words"), counts)},
        fused=(Ranking(), VectorScan.open(copy / "sums")),
        lines=HitLines.open(copy / "hits.jsonl", starts),
    )
    sizes = {len(ids), len(starts) - 1, len(rows.images), len(rows.texts), len(counts)}
    if len(sizes) > 1:
        raise ValueError(f"files of {sorted(sizes)} records")
    return rows


def write_copy(folder: Path, state: FileState, info: CollectionInfo, rows: CopyRows) -> None:
    """Write the copy of a collection."""
    ids = sorted(rows.rows)
    order = np.array([rows.rows[id] for id in ids], np.int64)
    captions = rows.captions["given"]
    sums = weighted_vectors(rows, Ranking(), order)
    with atomic_folder(folder / FOLDER) as copy:
        (copy / "words").mkdir()
        captions.words.taken(order).save(copy / "words")
        VectorScan(rows.images.vectors(order)).save(copy / "images")
        VectorScan(rows.texts.vectors(order)).save(copy / "texts")
        VectorScan(sums).save(copy / "sums")
        (copy / "ids.txt").write_text("".join(f"{id}\n" for id in ids), encoding="utf-8")
        starts = rows.lines.save(copy / "hits.jsonl", order)
        np.savez(
            copy / "arrays.npz",
            starts=starts,
            has_text=rows.has_text[order],
            counts=captions.counts[order],
        )
        about = {
            "version": _VERSION,
            "stamp": state.stamp,
            "changed": [],
            "info": asdict(info) | {"count": len(ids)},
        }
        (copy / ABOUT).write_text(json.dumps(about))
