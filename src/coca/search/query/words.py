"""Word index: BM25 of captions, in memory or memory-mapped, updated row by row.

    score(query, row) = sum over terms of idf * tf / (tf + k1 * (1 - b + b * length / mean length))
    idf = log(1 + (N - df + 0.5) / (df + 0.5))

This is the formula of Lucene. Milvus multiplies it by k1 + 1. `N`, `df` and the mean length count
rows with a caption only, and are exact after each change.

Terms are words by the Unicode standard (UAX #29) in form NFKC and case-folded, stemmed with the
Snowball stemmer for English. Chinese and hiragana characters and emoji are terms of their own.
Stop words are indexed too, and a query drops them unless it has no other words ("to be").

Postings are NumPy arrays in segments, as in Lucene: a change appends a segment, which is merged
with the segments before it that are not at least twice as large. A million captions take 60 MB, are
opened in 8 ms, searched for three words in 10 ms, and a changed caption is found after 15 ms.
Milvus Lite takes 2.5 s for three words at 50,000 captions and has no stemmer, SQLite FTS5 and
tantivy return each score as a Python object, and bm25s is rebuilt after each change: see
docs/results.md.

Dimensions: N rows, P postings, T terms, K and M matching rows.
"""

import hashlib
import json
import math
import threading
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt, UInt32, UInt64
from safetensors.numpy import save

from coca.core.errors import ArgumentError, SearchError
from coca.core.extras import require
from coca.core.files.atomic import write_atomic

K1, B = 1.2, 0.75
"""Defaults of Lucene and Milvus."""
FILE = "words.safetensors"

_WORD = r"\b[\w\p{Emoji_Presentation}\p{Extended_Pictographic}].*?\b"
"""A segment between word boundaries that begins with a letter, digit or emoji."""
STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
"""Those of the English analyzers of Lucene and Milvus."""
_MAX_WORD = 256
"""A longer run without a space is cut, as in Lucene: boundaries and NFKC take quadratic time."""
_NOWHERE = -1
"""Segment number of rows without a caption."""

_thread = threading.local()
"""Has a stemmer for each thread, as a stemmer is not thread-safe."""


def analyze(text: str) -> list[str]:
    """Split a text into terms, in order; the same for captions and queries."""
    return stems(split_words(text))


def content_terms(text: str) -> list[str]:
    """Return the terms of a text without its stop words; all terms if it has no others."""
    terms = analyze(text)
    return [term for term in terms if term not in stop_terms()] or terms


def split_words(text: str) -> list[str]:
    """Split a text into words, in form NFKC and case-folded."""
    parts = [text]
    if len(text) > _MAX_WORD:
        runs = text.split()
        parts = [run[at : at + _MAX_WORD] for run in runs for at in range(0, len(run), _MAX_WORD)]
    find = _word_finder()
    words: list[str] = []
    for part in parts:
        folded = unicodedata.normalize("NFKC", part).casefold()
        # The stemmer removes the possessive 's after a plain apostrophe only.
        words += find(folded.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return words


def stems(words: Sequence[str]) -> list[str]:
    """Return the term of each word: its stem."""
    if not hasattr(_thread, "stem"):
        _thread.stem = require("Stemmer", extra="search").Stemmer("english").stemWords
    terms: list[str] = _thread.stem(words)
    return terms


@cache
def stop_terms() -> frozenset[str]:
    """Return the terms of stop words."""
    return frozenset(analyze(STOP_WORDS))


@cache
def _word_finder() -> Callable[[str], list[str]]:
    regex = require("regex", extra="search")
    find: Callable[[str], list[str]] = regex.compile(_WORD, regex.WORD | regex.DOTALL).findall
    return find


def _analyzer() -> str:
    """Return the versions that the terms of a text depend on."""
    regex, stemmer = require("regex", extra="search"), require("Stemmer", extra="search")
    unicode = unicodedata.unidata_version
    return f"Unicode {unicode}, regex {regex.__version__}, Snowball {stemmer.version()}"


@dataclass(frozen=True)
class _Segment:
    """Postings of some rows, grouped by term."""

    number: int
    terms: UInt64[np.ndarray, " T"]
    """Hashes of its terms, sorted."""
    starts: Int64[np.ndarray, " T+1"]
    """Position of the first posting of each term, and the number of postings."""
    rows: Int32[np.ndarray, " P"]
    counts: UInt[np.ndarray, " P"]
    """Occurrences of the term in the row."""
    outdated: bool = False
    """Whether some of its rows have changed since."""

    def postings(self, term: int) -> slice:
        """Return the range of the postings of a term; empty if it has none."""
        at = int(np.searchsorted(self.terms, np.uint64(term)))
        if at == len(self.terms) or self.terms[at] != term:
            return slice(0, 0)
        return slice(int(self.starts[at]), int(self.starts[at + 1]))


@dataclass(frozen=True)
class _State:
    """Immutable state of an index, so that searches need no lock."""

    lengths: UInt32[np.ndarray, " N"]
    """Number of words of each row."""
    segment_of: Int32[np.ndarray, " N"]
    """Number of the segment with the postings of each row."""
    segments: tuple[_Segment, ...]

    @cached_property
    def captions(self) -> int:
        """Number of rows with a caption."""
        return int(np.count_nonzero(self.lengths))

    @cached_property
    def norms(self) -> Float32[np.ndarray, " N"]:
        """The part of the denominator that depends on the length of a row."""
        mean = int(self.lengths.sum(dtype=np.int64)) / max(self.captions, 1)
        scale = np.float32(K1 * B / max(mean, 1))
        return np.float32(K1 * (1 - B)) + scale * self.lengths.astype(np.float32)


class WordIndex:
    """BM25 index of texts by row; thread-safe: a search sees a change as a whole or not at all.

    Example:
        >>> index = WordIndex.build(["a red car", "", "two cars and a dog"])
        >>> rows, scores = index.scores("dogs")
        >>> rows.tolist()
        [2]
    """

    def __init__(self, state: _State) -> None:
        self._state = state
        self._changing = threading.Lock()

    def __len__(self) -> int:
        """Return the number of rows, with or without a caption."""
        return len(self._state.lengths)

    @property
    def is_empty(self) -> bool:
        """Whether no row has a word."""
        return not self._state.captions

    @classmethod
    def build(cls, texts: Iterable[str]) -> "WordIndex":
        """Index texts: row n is text n; an empty text is a row without a caption."""
        _, lengths, segment = _indexed(enumerate(texts), 0)
        return cls(_whole(lengths, segment))

    def scores(self, query: str) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
        """Compute the BM25 scores of all rows that share a term with a query.

        Returns:
            Rows, ascending, and their scores, above 0.
        """
        state = self._state
        total = np.zeros(len(state.lengths), np.float32)
        for term, count in Counter(content_terms(query)).items():
            hashed = _hash(term)
            found = [_live(state, one, one.postings(hashed)) for one in state.segments]
            frequency = sum(len(rows) for rows, _ in found)
            idf = np.log1p((state.captions - frequency + 0.5) / (frequency + 0.5))
            for rows, counts in found:
                occurrences = counts.astype(np.float32)
                gain = occurrences / (occurrences + state.norms[rows])
                total[rows] += np.float32(count * idf) * gain
        rows = np.flatnonzero(total)
        return rows, total[rows]

    def coverage(self, query: str) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
        """Compute the share of a query's terms that each row has, weighted by their idf.

        Unlike BM25, it depends neither on the length of a text nor on the number of texts.

        Returns:
            Rows with a term of the query, ascending, and their shares, above 0 to 1.
        """
        state = self._state
        total, whole = np.zeros(len(state.lengths), np.float32), 0.0
        for term in dict.fromkeys(content_terms(query)):
            hashed = _hash(term)
            found = [_live(state, one, one.postings(hashed))[0] for one in state.segments]
            frequency = sum(map(len, found))
            idf = math.log1p((state.captions - frequency + 0.5) / (frequency + 0.5))
            whole += idf
            for rows in found:
                total[rows] += np.float32(idf)
        rows = np.flatnonzero(total)
        return rows, np.minimum(total[rows] / np.float32(whole or 1), np.float32(1))

    def replace(self, changed: Mapping[int, str]) -> None:
        """Replace the texts of rows; an empty text deletes the row's caption.

        Rows from `len(self)` on are appended, and rows in between have no caption.
        """
        if not changed:
            return
        if min(changed) < 0:
            raise ArgumentError(f"a row must be 0 or more, got {min(changed)}")
        with self._changing:
            state = self._state
            number = 1 + max(segment.number for segment in state.segments)
            rows, row_lengths, new = _indexed(changed.items(), number)
            added = max(0, int(rows.max()) + 1 - len(state.lengths))
            lengths = np.pad(state.lengths, (0, added))
            segment_of = np.pad(state.segment_of, (0, added), constant_values=_NOWHERE)
            changed_segments = set(segment_of[rows].tolist())
            lengths[rows] = row_lengths
            segment_of[rows] = np.where(row_lengths > 0, number, _NOWHERE)
            old = [
                replace(segment, outdated=segment.outdated or segment.number in changed_segments)
                for segment in state.segments
            ]
            self._state = _merged(_State(lengths, segment_of, (*old, new)))

    def taken(self, rows: Int64[np.ndarray, " M"]) -> "WordIndex":
        """Return an index of these rows alone, in this order."""
        state = self._state
        segment = _joined(state, state.segments)
        position = np.full(len(state.lengths), -1, np.int32)
        position[rows] = np.arange(len(rows), dtype=np.int32)
        terms = np.repeat(segment.terms, np.diff(segment.starts))
        new_rows = position[segment.rows]
        kept = new_rows >= 0
        unique, starts = np.unique(terms[kept], return_index=True)
        starts = np.append(starts, np.count_nonzero(kept))
        taken = _Segment(0, unique, starts, new_rows[kept], segment.counts[kept])
        return WordIndex(_whole(state.lengths[rows], taken))

    def save(self, folder: str | Path) -> None:
        """Write the index as one segment to a folder, atomically.

        Processes that have opened an older one keep it.
        """
        state = self._state
        segment = _joined(state, state.segments)
        arrays = {
            "lengths": state.lengths,
            "terms": segment.terms,
            "starts": segment.starts,
            "rows": segment.rows,
            "counts": segment.counts,
        }
        write_atomic(Path(folder) / FILE, save(arrays, metadata={"analyzer": _analyzer()}))

    @classmethod
    def open(cls, folder: str | Path) -> "WordIndex":
        """Open a saved index, memory-mapped."""
        path = Path(folder) / FILE
        try:
            analyzer, arrays = _mapped(path)
            lengths, terms, starts = arrays["lengths"], arrays["terms"], arrays["starts"]
            segment = _Segment(0, terms, starts, arrays["rows"], arrays["counts"])
        except (OSError, KeyError, ValueError) as error:
            raise SearchError(
                f"{path} is missing or damaged; build the word index again: {error}"
            ) from None
        if analyzer != _analyzer():
            raise SearchError(
                f"{path} was written with the analyzer {analyzer!r} instead of {_analyzer()!r}; "
                "build the word index again"
            )
        return cls(_whole(lengths, segment))


class WordHits:
    """Records that share a word with a query: BM25 of the caption, share of the text inside."""

    def __init__(
        self,
        ids: Sequence[str],
        rows_of: Mapping[str, int],
        rows: Int64[np.ndarray, " M"],
        words: Float32[np.ndarray, "M 2"],
    ) -> None:
        """Take the rows, ascending, with the BM25 of the caption and the share of the text."""
        self._ids, self._rows_of, self._rows, self._words = ids, rows_of, rows, words
        self._keys = words[:, 0] / (1 + words[:, 0]) + words[:, 1]

    def __len__(self) -> int:
        return len(self._rows)

    def best(self, count: int) -> dict[str, float]:
        """Return the ids of the best records with their BM25, best first."""
        order = np.argsort(-self._keys, kind="stable")[:count]
        return {self._ids[self._rows[at]]: float(self._words[at, 0]) for at in order}

    def rest(self, count: int) -> Float32[np.ndarray, "1 2"]:
        """Return the highest BM25 and share of all other records."""
        others = np.argsort(-self._keys, kind="stable")[count:]
        return self._words[others].max(axis=0, keepdims=True, initial=0)

    def of(self, ids: Sequence[str]) -> Float32[np.ndarray, "N 2"]:
        """Return BM25 and share of these records, 0 where they have no word of the query."""
        return self.of_rows(np.array([self._rows_of.get(id, -1) for id in ids], np.int64))

    def of_rows(self, rows: Int64[np.ndarray, " N"]) -> Float32[np.ndarray, "N 2"]:
        """Return BM25 and share of these rows, 0 where they have no word of the query."""
        if not len(self._rows):
            return np.zeros((len(rows), 2), np.float32)
        at = np.searchsorted(self._rows, rows).clip(max=len(self._rows) - 1)
        return np.where((self._rows[at] == rows)[:, np.newaxis], self._words[at], np.float32(0))

    def best_rows(
        self, count: int, kept: Bool[np.ndarray, " N"]
    ) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, "1 2"]]:
        """Return the best rows that are kept, and the similarities that no other one exceeds."""
        there = np.flatnonzero(kept[self._rows])
        if len(there) <= count:
            return self._rows[there], np.zeros((1, 2), np.float32)
        order = np.argpartition(-self._keys[there], count)
        rest = self._words[there[order[count:]]].max(axis=0, keepdims=True)
        return self._rows[there[order[:count]]], rest


def _hash(term: str) -> int:
    """Hash a term to 64 bits, so that a saved index needs no vocabulary.

    Two of a million terms have the same hash with a probability of 3e-8.
    """
    # Half of a surrogate pair, as in a damaged file name, cannot be encoded otherwise.
    data = term.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _indexed(
    texts: Iterable[tuple[int, str]], number: int
) -> tuple[Int64[np.ndarray, " K"], UInt32[np.ndarray, " K"], _Segment]:
    """Return rows, their number of words, and a segment of their postings."""
    rows, lengths, occurrences = array("q"), array("I"), array("Q")
    hashes: dict[str, int] = {}
    for row, text in texts:
        words = analyze(text)
        rows.append(row)
        lengths.append(len(words))
        for term in words:
            if (known := hashes.get(term)) is None:
                known = hashes[term] = _hash(term)
            occurrences.append(known)
    row_array, length_array = np.array(rows, np.int64), np.array(lengths, np.uint32)
    terms, at = np.unique(np.array(occurrences, np.uint64), return_inverse=True)
    # Positions of a term and a row in one number, which sorts by term first.
    keys = at.astype(np.int64) << 32 | np.repeat(row_array, length_array)
    keys, counts = np.unique(keys, return_counts=True)
    smallest = np.min_scalar_type(int(counts.max(initial=0)))
    segment_rows = (keys & 0xFFFFFFFF).astype(np.int32)
    starts = np.searchsorted(keys >> 32, np.arange(len(terms) + 1))
    segment = _Segment(number, terms, starts, segment_rows, counts.astype(smallest))
    return row_array, length_array, segment


def _live(
    state: _State, segment: _Segment, postings: slice
) -> tuple[Int32[np.ndarray, " K"], UInt[np.ndarray, " K"]]:
    """Return the rows and counts of postings, without those of rows that changed since."""
    rows, counts = segment.rows[postings], segment.counts[postings]
    if segment.outdated:
        kept = state.segment_of[rows] == segment.number
        rows, counts = rows[kept], counts[kept]
    return rows, counts


def _merged(state: _State) -> _State:
    """Merge the last segments until each is at least twice as large as the one after it."""
    first = len(state.segments) - 1
    size = len(state.segments[first].rows)
    while first and len(state.segments[first - 1].rows) < 2 * size:
        first -= 1
        size += len(state.segments[first].rows)
    if first == len(state.segments) - 1:
        return state
    number = state.segments[-1].number
    joined = _joined(state, state.segments[first:])
    numbers = [segment.number for segment in state.segments[first:]]
    segment_of = np.where(np.isin(state.segment_of, numbers), np.int32(number), state.segment_of)
    return _State(state.lengths, segment_of, (*state.segments[:first], joined))


def _joined(state: _State, segments: Sequence[_Segment]) -> _Segment:
    """Join the postings of segments, without those of rows that changed since."""
    number = segments[-1].number
    if len(segments) == 1 and not segments[0].outdated:
        return segments[0]
    parts = []
    for segment in segments:
        terms = np.repeat(segment.terms, np.diff(segment.starts))
        live = slice(None)
        if segment.outdated:
            live = state.segment_of[segment.rows] == segment.number
        parts.append((terms[live], segment.rows[live], segment.counts[live]))
    terms, rows, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Stable: linear in time, as each segment is sorted.
    order = np.argsort(terms, kind="stable")
    unique, starts = np.unique(terms[order], return_index=True)
    starts = np.append(starts, len(terms))
    return _Segment(number, unique, starts, rows[order], counts[order])


def _whole(lengths: UInt32[np.ndarray, " N"], segment: _Segment) -> _State:
    """Return the state of an index with one segment, number 0."""
    segment_of = np.where(lengths > 0, np.int32(0), np.int32(_NOWHERE))
    return _State(lengths, segment_of, (segment,))


def _mapped(path: Path) -> tuple[str | None, dict[str, np.ndarray]]:
    """Map the arrays of a safetensors file into memory, with the name of its analyzer.

    The library reads them into memory instead.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(size))
        data = np.asarray(np.memmap(file, np.uint8, "r", offset=8 + size))
    analyzer = header.pop("__metadata__", {}).get("analyzer")
    arrays = {}
    for name, entry in header.items():
        kind, bits = entry["dtype"][0].lower(), int(entry["dtype"][1:])
        part = data[slice(*entry["data_offsets"])].view(f"<{kind}{bits // 8}")
        arrays[name] = part.reshape(entry["shape"])
    return analyzer, arrays
