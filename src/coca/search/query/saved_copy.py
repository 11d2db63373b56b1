"""Copy of a collection on disk, in its folder of Milvus Lite: opened in milliseconds.

The first search writes it, and so does `coca index`. A search reads it memory-mapped and needs
neither Milvus nor the lock of the folder. It has all fields of hits as well. Records that were
written since are read from Milvus.

copy.json            the description of the collection, the state of its files, and what was written
                     since; see `coca.search.milvus.lite`
ids.txt              the ids of all records, one a line, sorted
hits.jsonl           their fields, one JSON object a line
arrays.npz           where each of these lines begins, and masks of records
images, texts, sums  their vectors, see `VectorScan`: of images, of captions, and weighted sums
words                the words of the captions that people gave, see `WordIndex`
texts_inside         the words of the text inside images

Dimensions: N records, Q queries, E embedding, K results, M matching records, B boundaries of lines,
one more than there are lines, U bytes.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64, UInt8

from coca.core.errors import CocaError
from coca.core.files.atomic import atomic_folder
from coca.search.milvus import lite
from coca.search.query.ranking import fused_scores
from coca.search.query.vectors import VectorScan
from coca.search.query.words import WordHits, WordIndex
from coca.search.records import SCORE_DIGITS, CollectionInfo, Hit, sort_key
from coca.search.search_options import CaptionChoice, Ranking

_FIRST_WORDS = 4_096
"""Number of captions with the best BM25 that are ranked first; more only where they may matter."""
_MARGIN = 2e-6
"""Scores that are nearer than this may be equal: they are computed in another order."""


@dataclass(frozen=True)
class RankedParts:
    """Score of a record, and what it consists of."""

    fused: float
    image: float
    caption: float
    """NaN where no caption counts."""
    bm25: float
    inside: float
    """Share of the query's words that the text inside the image has."""


@dataclass
class CountedCaptions:
    """Captions that count, of one choice."""

    words: WordIndex
    """The words of each row; none where the caption does not count."""
    texts: WordIndex
    """The words of the text inside the image of each row."""
    counts: Bool[np.ndarray, " N"]
    """Whether each row has a caption that counts."""


class HitLines:
    """Fields of the hits of rows, one JSON object a line: in a mapped file, and written ones."""

    def __init__(
        self,
        lines: UInt8[np.ndarray, " U"] | None = None,
        starts: Int64[np.ndarray, " B"] | None = None,
    ) -> None:
        """Take the lines of a file, and where each begins; the last number is their end."""
        self._lines = np.zeros(0, np.uint8) if lines is None else lines
        self._starts = np.zeros(1, np.int64) if starts is None else starts
        self._written: dict[int, bytes] = {}

    @classmethod
    def open(cls, path: Path, starts: Int64[np.ndarray, " B"]) -> "HitLines":
        """Map the file that `save` wrote."""
        return cls(np.memmap(path, np.uint8, "r"), starts) if starts[-1] else cls(starts=starts)

    def save(self, path: Path, rows: Int64[np.ndarray, " M"]) -> Int64[np.ndarray, " B"]:
        """Write the lines of some rows, and return where each begins."""
        lines = [self._line(int(row)) for row in rows]
        path.write_bytes(b"".join(lines))
        return np.cumsum([0, *map(len, lines)], dtype=np.int64)

    def read(self, row: int) -> Hit:
        """Read the hit of a row, with a score of 0."""
        fields = json.loads(self._line(row))
        return Hit(**fields | {"tags": tuple(fields["tags"])})

    def write(self, row: int, hit: Hit) -> None:
        """Set the fields of a row."""
        given = {name: value for name, value in vars(hit).items() if value is not None}
        self._written[row] = json.dumps(given, ensure_ascii=False).encode() + b"\n"

    def _line(self, row: int) -> bytes:
        written = self._written.get(row)
        if written is not None:
            return written
        return self._lines[self._starts[row] : self._starts[row + 1]].tobytes()


@dataclass
class CopyRows:
    """Rows of one read of the collection, updated in place. A row number is never used again."""

    writes: int
    """Number of writes of the collection that they include."""
    ids: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    """Row of each record that exists."""
    exists: Bool[np.ndarray, " N"] = field(default_factory=lambda: np.zeros(0, bool))
    has_text: Bool[np.ndarray, " N"] = field(default_factory=lambda: np.zeros(0, bool))
    """Mask of records with a caption vector."""
    hidden: Bool[np.ndarray, " N"] = field(default_factory=lambda: np.zeros(0, bool))
    """Mask of hidden records."""
    images: VectorScan = field(default_factory=lambda: VectorScan(np.zeros((0, 0), np.float32)))
    texts: VectorScan = field(default_factory=lambda: VectorScan(np.zeros((0, 0), np.float32)))
    captions: dict[CaptionChoice, CountedCaptions] = field(default_factory=dict)
    lines: HitLines = field(default_factory=HitLines)
    """Fields of hits, of a copy of Milvus Lite with vectors; others read them from Milvus."""
    fused: tuple[Ranking, VectorScan] | None = None
    """Weighted sums of the vectors of image and caption, for the last weights."""
    kept: dict[str, tuple[int, Bool[np.ndarray, " N"]]] = field(default_factory=dict)
    """Filter -> number of writes that the result includes, and mask of the records that it keeps,
    for the last `_FILTERS` filters."""

    def add(self, ids: Iterable[str]) -> None:
        """Add rows of new records."""
        count = len(self.ids)
        self.ids.extend(ids)
        none = np.zeros(len(self.ids) - count, bool)
        self.rows |= {id: row for row, id in enumerate(self.ids[count:], start=count)}
        self.exists = np.append(self.exists, ~none)
        self.has_text = np.append(self.has_text, none)
        self.hidden = np.append(self.hidden, none)

    def found(self) -> Bool[np.ndarray, " N"]:
        """Return the mask of the records that searches find."""
        return self.exists & ~self.hidden


def counted_captions(captions: Sequence[str], texts: Sequence[str]) -> CountedCaptions:
    """Index caption and text of each row; an empty caption is one that does not count."""
    return CountedCaptions(
        WordIndex.build(captions),
        WordIndex.build(texts),
        np.array([bool(caption) for caption in captions], bool),
    )


def word_hits(rows: CopyRows, captions: CountedCaptions, text: str) -> WordHits:
    """Find the rows whose caption, or the text inside whose image, shares a word with a text."""
    words = np.zeros((len(rows.ids), 2), np.float32)
    for column, (found, scores) in enumerate(
        (captions.words.scores(text), captions.texts.coverage(text))
    ):
        words[found, column] = scores
    some = np.flatnonzero(words.any(axis=1))
    return WordHits(rows.ids, rows.rows, some, words[some])


def nearest_rows(
    ids: Sequence[str],
    scan: VectorScan,
    queries: Float32[np.ndarray, "Q E"],
    count: int,
    kept: Bool[np.ndarray, " N"],
) -> list[list[tuple[str, float]]]:
    """Return the ids of the nearest rows to each query; ties are broken by id."""
    answers = []
    for query, found in zip(
        queries, zip(*scan.top(queries, count + 1, kept=kept), strict=True), strict=True
    ):
        limit = count + 1
        # Ties with the last one may follow, and precede it by id.
        while len(found[0]) == limit and _tie(float(found[1][count - 1]), float(found[1][-1])):
            limit *= 4
            found = _top(scan, query, limit, kept)
        named = [(ids[row], float(score)) for row, score in zip(*found, strict=True)]
        answers.append(sorted(named, key=lambda pair: sort_key(pair[1], pair[0]))[:count])
    return answers


def _top(
    scan: VectorScan, query: Float32[np.ndarray, " E"], count: int, kept: Bool[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
    rows, scores = scan.top(query[np.newaxis], count, kept=kept)
    return rows[0], scores[0]


def _tie(one: float, other: float) -> bool:
    return round(one, SCORE_DIGITS) == round(other, SCORE_DIGITS)


def weighted_vectors(
    rows: CopyRows, ranking: Ranking, some: Int[np.ndarray, " M"]
) -> Float32[np.ndarray, "M E"]:
    """Return the weighted sums of the vectors of image and caption of some rows.

    Their inner product with a query is the part of its ranking without words.
    """
    images = rows.images.vectors(some)
    counts = (rows.captions[ranking.captions].counts & rows.has_text)[some, np.newaxis]
    captions = np.where(counts, rows.texts.vectors(some), ranking.uncaptioned * images)
    return (ranking.image_weight * images + ranking.caption_weight * captions).astype(np.float32)


def ranked_rows(
    rows: CopyRows,
    captions: CountedCaptions,
    query: Float32[np.ndarray, " E"],
    text: str,
    ranking: Ranking,
    count: int,
    kept: Bool[np.ndarray, " N"],
) -> list[tuple[str, RankedParts]]:
    """Return the first records by the whole ranking, exactly.

    Candidates are the best by vectors and the best by words, of each more until no other record can
    be among the first (the threshold algorithm of Fagin et al. 2001).
    """
    if rows.fused is None or rows.fused[0] != ranking:
        rows.fused = (
            ranking,
            VectorScan(weighted_vectors(rows, ranking, np.arange(len(rows.ids)))),
        )
    scan, found = rows.fused[1], word_hits(rows, captions, text)
    depth, first_words = max(4 * count, 64), max(4 * count, _FIRST_WORDS)
    while True:
        near, similarities = _top(scan, query, depth, kept)
        worded, rest = found.best_rows(first_words, kept)
        some = np.union1d(near, worded)
        scores = scan.scores_of(query, some) + _by_words(found.of_rows(some), ranking)
        best = _best(scores, count)
        next_words = float(_by_words(rest, ranking)[0])
        least = float(scores[best].min()) if len(best) >= count else -math.inf
        # With a margin, since scores of equal records differ by rounding.
        if len(near) < depth or least > float(similarities[-1]) + next_words + _MARGIN:
            break
        depth, first_words = 4 * depth, 4 * first_words
    some = some[best]
    image, caption = rows.images.scores_of(query, some), rows.texts.scores_of(query, some)
    caption = np.where(captions.counts[some] & rows.has_text[some], caption, np.float32(np.nan))
    words = found.of_rows(some)
    fused = fused_scores(image, caption, words, ranking)
    named = [
        (rows.ids[row], RankedParts(*map(float, parts)))
        for row, *parts in zip(some, fused, image, caption, *words.T, strict=True)
    ]
    return sorted(named, key=lambda pair: sort_key(pair[1].fused, pair[0]))[:count]


def _by_words(words: Float[np.ndarray, "N 2"], ranking: Ranking) -> Float[np.ndarray, " N"]:
    nothing = np.zeros(len(words))
    return fused_scores(nothing, nothing, words, ranking)


def _best(scores: Float[np.ndarray, " N"], count: int) -> Int[np.ndarray, " M"]:
    """Return the positions of the best scores, with all that tie with the last of them."""
    if len(scores) <= count:
        return np.arange(len(scores))
    least = np.partition(scores, -count)[-count]
    return np.flatnonzero(scores >= least - _MARGIN)


# The copy on disk.


_VERSION = 6


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
        state = lite.FileState.of(self.folder)
        return state is not None and state.stamp == self.stamp


def find_copy(uri: str, collection: str) -> SavedCopy | None:
    """Open the copy of a collection, which need not be open; None without a current copy."""
    address = lite.address_of(uri)
    if not lite.is_lite(address):
        return None
    try:
        aliases = json.loads((Path(address) / "aliases.json").read_text())
        folder = lite.folder_of(Path(address), aliases.get(collection, collection))
        calibration = lite.calibration_of(folder)
    except (OSError, ValueError, AttributeError):
        return None
    state = lite.FileState.of(folder)
    saved = None if state is None else read_copy(folder, state.stamp)
    # Others may have written it while it was read.
    if saved is None or not saved.is_current:
        return None
    info = replace(saved.info, uri=uri, collection=collection, calibration=calibration)
    return replace(saved, info=info)


def read_copy(folder: Path, stamp: str) -> SavedCopy | None:
    """Open the copy of a collection in a state of its files; None if there is none, or damaged."""
    copy = folder / lite.COPY_FOLDER
    try:
        about = json.loads((copy / lite.COPY_ABOUT).read_text())
        if about["version"] != _VERSION or about["stamp"] != stamp:
            return None
        info = CollectionInfo(**about["info"])
        rows = _read_rows(copy)
        if len(rows.ids) != info.count:
            raise ValueError(f"files of {len(rows.ids)} records, not of {info.count}")
        return SavedCopy(info, folder, stamp, rows, tuple(about["changed"]))
    except (CocaError, OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        # Damaged, or of another version: the collection itself is read.
        return None


def _read_rows(copy: Path) -> CopyRows:
    with np.load(copy / "arrays.npz", allow_pickle=False) as arrays:
        starts, has_text, hidden, counts = (
            arrays[name] for name in ("starts", "has_text", "hidden", "counts")
        )
    ids = (copy / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1]
    rows = CopyRows(
        writes=0,
        ids=ids,
        rows={id: row for row, id in enumerate(ids)},
        exists=np.ones(len(ids), bool),
        has_text=has_text,
        hidden=hidden,
        images=VectorScan.open(copy / "images"),
        texts=VectorScan.open(copy / "texts"),
        captions={
            "given": CountedCaptions(
                WordIndex.open(copy / "words"), WordIndex.open(copy / "texts_inside"), counts
            )
        },
        fused=(Ranking(), VectorScan.open(copy / "sums")),
        lines=HitLines.open(copy / "hits.jsonl", starts),
    )
    sizes = {len(ids), len(starts) - 1, len(hidden), *map(len, (rows.images, rows.texts, counts))}
    if len(sizes) > 1:
        raise ValueError(f"files of {sorted(sizes)} records")
    return rows


def write_copy(folder: Path, state: lite.FileState, info: CollectionInfo, rows: CopyRows) -> None:
    """Write the copy of a collection."""
    ids = sorted(rows.rows)
    order = np.array([rows.rows[id] for id in ids], np.int64)
    captions = rows.captions["given"]
    sums = weighted_vectors(rows, Ranking(), order)
    with atomic_folder(folder / lite.COPY_FOLDER) as copy:
        for name, index in (("words", captions.words), ("texts_inside", captions.texts)):
            (copy / name).mkdir()
            index.taken(order).save(copy / name)
        VectorScan(rows.images.vectors(order)).save(copy / "images")
        VectorScan(rows.texts.vectors(order)).save(copy / "texts")
        VectorScan(sums).save(copy / "sums")
        (copy / "ids.txt").write_text("".join(f"{id}\n" for id in ids), encoding="utf-8")
        starts = rows.lines.save(copy / "hits.jsonl", order)
        np.savez(
            copy / "arrays.npz",
            starts=starts,
            has_text=rows.has_text[order],
            hidden=rows.hidden[order],
            counts=captions.counts[order],
        )
        about = {
            "version": _VERSION,
            "stamp": state.stamp,
            "changed": [],
            "info": asdict(info) | {"count": len(ids)},
        }
        (copy / lite.COPY_ABOUT).write_text(json.dumps(about))
