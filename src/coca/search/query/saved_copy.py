"""Copy of a collection on disk, in its folder of Milvus Lite: opened in milliseconds.

`coca index` writes it. A search of an unchanged collection reads it memory-mapped and needs neither
Milvus nor the lock of the folder. It has all fields of hits as well.

copy.json            the description of the collection, and the state of its files (`stamp_of`)
ids.txt              the ids of all records, one a line, sorted
hits.jsonl           their fields, one JSON object a line
arrays.npz           where each of these lines begins, and masks of records
images, texts, sums  their vectors, see `VectorScan`: of images, of captions, and weighted sums
words                the words of the captions that people gave, see `WordIndex`

Dimensions: N records, B boundaries of lines, one more.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Int64

from coca.core.errors import CocaError
from coca.core.files.atomic import atomic_folder
from coca.search.milvus.lite import address_of, is_lite
from coca.search.query.copy_rows import CopyRows, CountedCaptions, weighted_vectors
from coca.search.query.vectors import VectorScan
from coca.search.query.words import WordIndex
from coca.search.records import CollectionInfo, Hit
from coca.search.search_options import Ranking
from coca.search.vector_encoding import VectorEncoding

FOLDER, ABOUT = "copy", "copy.json"
_VERSION = 1
_NAME = re.compile(r"\w+")


def stamp_of(database: Path, own_name: str) -> str:
    """Compute a digest of the files that change with each write to a collection of Milvus Lite.

    They are the manifest, which lists all other files, the log of what is not in them yet, the
    schema, which has the calibration, and its names.

    Args:
        database: Folder of Milvus Lite.
        own_name: Name of the collection, not an alias.
    """
    folder = database / "collections" / own_name
    log = sorted((folder / "wal").glob("*"))
    aliases = json.loads((database / "aliases.json").read_text())
    state = [
        *((path.name, path.stat().st_size) for path in log),
        *((folder / name).read_text() for name in ("manifest.json", "schema.json")),
        *sorted(alias for alias, name in aliases.items() if name == own_name),
    ]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


class SavedHits:
    """Fields of hits in a memory-mapped file."""

    def __init__(self, path: Path, starts: Int64[np.ndarray, " B"]) -> None:
        """Map the file; `starts` has the position of each row's line, and the size of the file."""
        self._lines, self._starts = np.memmap(path, np.uint8, "r"), starts

    def read(self, row: int) -> Hit:
        """Read the hit of a row, with a score of 0."""
        line = self._lines[self._starts[row] : self._starts[row + 1]].tobytes()
        fields = json.loads(line)
        return Hit(**fields | {"tags": tuple(fields["tags"])})


@dataclass(frozen=True)
class SavedCopy:
    """An opened copy: description, rows, and the fields of their hits."""

    info: CollectionInfo
    database: Path
    """Folder of Milvus Lite."""
    own_name: str
    stamp: str
    rows: CopyRows
    hits: SavedHits

    @property
    def is_current(self) -> bool:
        """Whether the collection is as it was when the copy was written."""
        return stamp_of(self.database, self.own_name) == self.stamp


def find_copy(uri: str, collection: str) -> SavedCopy | None:
    """Open the copy of a collection if it is as the collection; else return None.

    Args:
        uri: Address of the collection; only Milvus Lite has copies.
        collection: Name or alias of the collection.
    """
    database = Path(address_of(uri))
    if not is_lite(str(database)) or not _NAME.fullmatch(collection):
        return None
    for about in database.glob(f"collections/*/{FOLDER}/{ABOUT}"):
        try:
            found = json.loads(about.read_text())
            names = (found["own_name"], found["info"]["collection"])
            if found["version"] != _VERSION or collection not in names:
                continue
            copy = _opened(about.parent, found, database, uri=uri, collection=collection)
            if copy.is_current:
                return copy
        except (CocaError, OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            # Damaged, or of another version: the collection itself is searched.
            continue
    return None


def _opened(
    folder: Path, about: dict[str, Any], database: Path, *, uri: str, collection: str
) -> SavedCopy:
    fields = about["info"] | {"encoding": VectorEncoding(**about["info"]["encoding"])}
    info = CollectionInfo(**fields | {"uri": uri, "collection": collection})
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        starts, has_text, counts = (arrays[name] for name in ("starts", "has_text", "counts"))
    ids = (folder / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1]
    rows = CopyRows(
        writes=0,
        ids=ids,
        rows={id: row for row, id in enumerate(ids)},
        exists=np.ones(len(ids), bool),
        has_text=has_text,
        images=VectorScan.open(folder / "images"),
        texts=VectorScan.open(folder / "texts"),
        captions={"given": CountedCaptions(WordIndex.open(folder / "words"), counts)},
        fused=(Ranking(), VectorScan.open(folder / "sums")),
    )
    sizes = {len(ids), len(starts) - 1, len(rows.images), len(rows.texts), len(counts), info.count}
    if len(sizes) > 1:
        raise ValueError(f"files of {sorted(sizes)} records")
    hits = SavedHits(folder / "hits.jsonl", starts)
    return SavedCopy(info, database, folder.parent.name, about["stamp"], rows, hits)


def write_copy(
    database: Path, own_name: str, info: CollectionInfo, rows: CopyRows, hits: Iterable[Hit]
) -> None:
    """Write the copy of a collection, whose files must not change meanwhile.

    Args:
        database: Folder of Milvus Lite.
        own_name: Name of the collection, not an alias.
        info: Description of the collection.
        rows: Ids, vectors and words of all records.
        hits: Fields of all records, in any order.
    """
    stamp = stamp_of(database, own_name)
    lines = {hit.id: _line(hit) for hit in hits}
    ids = sorted(rows.rows.keys() & lines.keys())
    order = np.array([rows.rows[id] for id in ids], np.int64)
    captions = rows.captions["given"]
    sums = weighted_vectors(rows, Ranking(), order)
    with atomic_folder(database / "collections" / own_name / FOLDER) as folder:
        (folder / "words").mkdir()
        captions.words.taken(order).save(folder / "words")
        VectorScan(rows.images.vectors(order)).save(folder / "images")
        VectorScan(rows.texts.vectors(order)).save(folder / "texts")
        VectorScan(sums).save(folder / "sums")
        (folder / "ids.txt").write_text("".join(f"{id}\n" for id in ids), encoding="utf-8")
        starts = np.cumsum([0, *(len(lines[id]) for id in ids)])
        with (folder / "hits.jsonl").open("wb") as file:
            file.writelines(lines[id] for id in ids)
        np.savez(
            folder / "arrays.npz",
            starts=starts,
            has_text=rows.has_text[order],
            counts=captions.counts[order],
        )
        about = {
            "version": _VERSION,
            "stamp": stamp,
            "own_name": own_name,
            "info": asdict(info) | {"count": len(ids)},
        }
        (folder / ABOUT).write_text(json.dumps(about))


def _line(hit: Hit) -> bytes:
    given = {name: value for name, value in asdict(hit).items() if value is not None}
    return json.dumps(given, ensure_ascii=False).encode() + b"\n"
