"""Postings of a collection in its file: BM25 of the words of records, derived from their texts.

    bm25(query, row) = sum over terms of idf * tf / (tf + k1 * (1 - b + b * length / mean length))
    idf = log(1 + (N - df + 0.5) / (df + 0.5))

tf is the sum over fields of weight times occurrences (BM25F), the weighted length of a row counts
all its terms by `FIELD_WEIGHTS`, and N counts all records.

The table NAME_words has a BLOB for each block of rows and each term in it, with 6 bytes for each
row and field: as 16-bit integers the row's offset in the block, the number of the field with the
occurrences, and the row's length in halves of a term. A fold of a block replaces the BLOBs of its
terms, which are in few pages, since the key begins with the block: a million records are written in
30 s of processor time, and in 72 s with a key that begins with the term. Rows that were written
since have their words in memory (`RecentWords`).

Dimensions: N rows, P postings, M matching rows, R rows of a block.
"""

import json
import sqlite3
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Integer

from coca.search.search_options import CaptionChoice
from coca.search.spelling import one_error_away
from coca.search.sqlite.codes import BLOCK_ROWS
from coca.search.sqlite.database import sealed, unsealed
from coca.search.words import (
    FIELD_WEIGHTS,
    FIELDS,
    GENERATED,
    LABELS,
    MARKS,
    MOST_LENGTH,
    MOST_OCCURRENCES,
    NAMED,
    RULES,
    SEEN_WEIGHT,
    TEXT,
    TEXT_FIELDS,
    Words,
    label_keys,
    noun_key,
    search_terms,
    stems,
)

K1, B = 1.2, 0.75
"""Defaults of Lucene and Milvus."""
_RULES_TERM = ""
"""Term of each block that has the version of the analysis of its words in place of postings."""
_POSTING_BYTES = 6
_LONGEST_ENDING = 3
"""Letters of an ending that stems lack, such as "ing"."""
_TF = np.outer([*FIELD_WEIGHTS.values()], range(MOST_OCCURRENCES + 1)).astype(np.float32).ravel()
_IS_LABEL = np.repeat([field in LABELS for field in FIELDS], MOST_OCCURRENCES + 1)
_IS_TEXT = np.repeat([field in TEXT_FIELDS for field in FIELDS], MOST_OCCURRENCES + 1)


@dataclass(frozen=True)
class RecentWords:
    """Postings in memory of rows whose words were written since their block."""

    numbers: dict[str, int] = field(default_factory=dict)
    """Numbers of terms; it only grows."""
    rows: Int64[np.ndarray, " N"] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Rows whose postings in blocks are void, ascending."""
    postings: Int32[np.ndarray, "4 P"] = field(default_factory=lambda: np.zeros((4, 0), np.int32))
    """Number of the term, row, field with occurrences, and length of the row."""

    def replaced(self, words: Mapping[int, Words], blocks: Iterable[int]) -> "RecentWords":
        """Return postings with these rows, and without others of some blocks."""
        void = np.fromiter(words, np.int64, len(words))
        gone = np.fromiter(blocks, np.int64)

        def keeps(rows: Int64[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
            return ~(np.isin(rows, void) | np.isin(rows // BLOCK_ROWS, gone))

        new = array("i")
        for row, one in words.items():
            for term, code in zip(one.terms, one.codes, strict=True):
                number = self.numbers.setdefault(term, len(self.numbers))
                new.extend((number, row, code, one.length))
        before = self.postings[:, keeps(self.postings[1].astype(np.int64))]
        added = np.frombuffer(new, np.int32).reshape(-1, 4).T if new else before[:, :0]
        rows = np.union1d(self.rows[keeps(self.rows)], void)
        return RecentWords(self.numbers, rows, np.concatenate([before, added], axis=1))

    def of(self, term: str) -> Int32[np.ndarray, "4 P"]:
        """Return the postings of a term."""
        return self.postings[:, self.postings[0] == self.numbers.get(term, -1)]

    def terms(self) -> list[str]:
        """Return the terms that a row has."""
        live = frozenset(np.unique(self.postings[0]).tolist())
        return [term for term, number in list(self.numbers.items()) if number in live]


NONE_RECENT = RecentWords()
Found: TypeAlias = tuple[
    Int64[np.ndarray, " P"], Integer[np.ndarray, " P"], Integer[np.ndarray, " P"]
]
"""Rows, fields with occurrences, and lengths."""


def create(connection: sqlite3.Connection, name: str) -> None:
    """Create the table of the collection `name`."""
    connection.execute(
        f'CREATE TABLE "{name}_words" (block INTEGER NOT NULL, term TEXT NOT NULL, '
        "data BLOB NOT NULL, PRIMARY KEY (block, term)) WITHOUT ROWID"
    )


def write(
    connection: sqlite3.Connection,
    name: str,
    block: int,
    rows: Mapping[int, Words],
    *,
    stale: Collection[int] = (),
    rules: int = RULES,
) -> None:
    """Replace the postings of rows of a block, in the transaction of the connection.

    Args:
        connection: Connection within a transaction.
        name: Name of the collection.
        block: Number of the block.
        rows: Words of rows from now on.
        stale: Rows among these that may have postings in the block.
        rules: Oldest version of the analysis that these words are of.
    """
    if stale:
        # Other releases of libraries may have found other terms in the same texts.
        blobs = read_block(connection, name, block)
    else:
        terms = {term for words in rows.values() for term in words.terms}
        blobs = {term: data for _, term, data in _blobs(connection, name, [block], sorted(terms))}
    changed = {
        term: data
        for term, data in merged(blobs, rows, stale).items()
        if data != blobs.get(term, b"")
    }
    connection.executemany(
        f'INSERT OR REPLACE INTO "{name}_words" (block, term, data) VALUES (?, ?, ?)',
        ((block, term, sealed(data)) for term, data in changed.items() if data),
    )
    connection.executemany(
        f'DELETE FROM "{name}_words" WHERE block = ? AND term = ?',
        ((block, term) for term, data in changed.items() if not data),
    )
    connection.execute(
        f'INSERT INTO "{name}_words" (block, term, data) VALUES (?, ?, ?) '
        "ON CONFLICT (block, term) DO UPDATE SET data = min(data, excluded.data)",
        (block, _RULES_TERM, rules),
    )


def read_block(connection: sqlite3.Connection, name: str, block: int) -> dict[str, bytes]:
    """Read the postings of all terms of a block."""
    sql = f'SELECT term, data FROM "{name}_words" WHERE block = ? AND term > ?'
    found = connection.execute(sql, (block, _RULES_TERM))
    return {term: unsealed(data, "words") for term, data in found}


def merged(
    blobs: Mapping[str, bytes], rows: Mapping[int, Words], stale: Collection[int]
) -> dict[str, bytes]:
    """Return the postings of a block with other words of rows; empty where no row has a term."""
    added: dict[str, array[int]] = defaultdict(lambda: array("H"))
    for row in sorted(rows):
        words, offset = rows[row], row % BLOCK_ROWS
        for term, code in zip(words.terms, words.codes, strict=True):
            added[term].extend((offset, code, words.length))
    gone = np.zeros(BLOCK_ROWS, bool)
    gone[[row % BLOCK_ROWS for row in stale]] = True
    return {
        term: _replaced(blobs.get(term, b""), gone, added.get(term))
        for term in sorted(blobs.keys() | added.keys())
    }


def clear(connection: sqlite3.Connection, name: str, block: int) -> None:
    """Delete the postings of a block."""
    connection.execute(f'DELETE FROM "{name}_words" WHERE block = ?', (block,))


def former_blocks(connection: sqlite3.Connection, name: str) -> set[int]:
    """Return the blocks with words by former rules."""
    sql = f'SELECT block FROM "{name}_words" WHERE term = ? AND data < ?'
    return {block for (block,) in connection.execute(sql, (_RULES_TERM, RULES))}


@dataclass(frozen=True)
class Postings:
    """Postings of one state of a collection; each term is read once."""

    connection: sqlite3.Connection
    name: str
    """Name of the collection."""
    size: int
    """Number of its rows, with and without records."""
    recent: RecentWords = NONE_RECENT
    """Postings of rows that were written since their block."""
    _found: dict[str, Found] = field(default_factory=dict)

    def of(self, term: str) -> Found:
        """Return rows, fields with occurrences, and lengths of the postings of a term, by row."""
        if term in self._found:
            return self._found[term]
        blobs = _blobs(self.connection, self.name, range(-(-self.size // BLOCK_ROWS)), [term])
        postings = np.frombuffer(b"".join([data for _, _, data in blobs]), "<u2").reshape(-1, 3)
        firsts = np.array([block * BLOCK_ROWS for block, _, _ in blobs], np.int64)
        counts = [len(data) // _POSTING_BYTES for _, _, data in blobs]
        found = np.repeat(firsts, counts) + postings[:, 0], postings[:, 1], postings[:, 2]
        if len(self.recent.rows):
            keep = ~np.isin(found[0], self.recent.rows)
            rows, codes, lengths = (
                np.concatenate([stored[keep], new])
                for stored, new in zip(found, self.recent.of(term)[1:], strict=True)
            )
            order = np.argsort(rows, kind="stable")
            found = rows[order].astype(np.int64), codes[order], lengths[order]
        self._found[term] = found
        return found

    def scores(
        self,
        query: Sequence[tuple[str, str]],
        *,
        records: int,
        mean_length: float,
        captions: CaptionChoice = "all",
    ) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
        """Compute the BM25 of all rows that share a term with a query.

        Args:
            query: Terms of the query, see `coca.search.words.query_terms`.
            records: Number of records of the collection.
            mean_length: Mean length of its rows, in halves of a term; see `analyzed`.
            captions: Captions that count; see `Ranking.captions`.

        Returns:
            Rows, ascending, and their BM25, above 0.
        """
        lengths = np.arange(MOST_LENGTH + 1, dtype=np.float32)
        norm_of = K1 * (1 - B) + np.float32(K1 * B / (mean_length or 1)) * lengths
        total = np.zeros(self.size, np.float32)
        for term in search_terms(query, captions):
            rows, fields, row_lengths = self.of(term)
            if not len(rows):
                continue
            tf, norm = _TF[fields], norm_of[row_lengths]
            starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
            if len(starts) < len(rows):
                rows, norm, tf = rows[starts], norm[starts], np.add.reduceat(tf, starts)
            idf = np.log1p((records - len(rows) + 0.5) / (len(rows) + 0.5))
            total[rows] += np.float32(idf) * tf / (tf + norm)
        rows = np.flatnonzero(total > 0)
        return rows, total[rows]

    def text_matches(
        self, query: Sequence[tuple[str, str]]
    ) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
        """Compute the match of a query with the labels and texts of each row.

        Returns:
            Rows with a match, ascending, and its value, above 0; see `text_match` of
            `coca.search.words`.
        """
        words = np.zeros(self.size, np.uint16)
        in_labels = set[int]()
        for number, word in enumerate(query):
            has_word = np.zeros(len(words), bool)
            # The year of a date is in no other field.
            is_label = word[0].isdigit()
            for term in (*word, *(MARKS[TEXT] + term for term in word)):
                rows, fields, _ = self.of(term)
                has_word[rows[_IS_TEXT[fields]]] = True
                is_label = is_label or bool(_IS_LABEL[fields].any())
            words += has_word
            if is_label:
                in_labels.add(number)
        # A table, as the power of all rows takes 40 times as long.
        matches = ((np.arange(len(query) + 1) / max(len(query), 1)) ** 4)[words]
        # A label covers words of the query, and several labels of a row may cover the same.
        named, tagged = dict[int, Bool[np.ndarray, " N"]](), dict[int, Bool[np.ndarray, " N"]]()
        for key, span in label_keys(query).items():
            if not in_labels.issuperset(span):
                continue
            rows, _, _ = self.of(key)
            if len(rows):
                covered = named if key.startswith(MARKS[NAMED]) else tagged
                for position in span:
                    covered.setdefault(position, np.zeros(len(words), bool))[rows] = True
        if named or tagged:
            none = np.zeros(len(words))
            tags = sum(tagged.values(), none) / max(len(query), 1)
            matches += sum(named.values(), none) + tags**2
        if noun := noun_key(query):
            rows, fields, _ = self.of(noun)
            matches[rows] += SEEN_WEIGHT * (fields & MOST_OCCURRENCES) / 10
        rows = np.flatnonzero(matches > 0)
        return rows, matches[rows].astype(np.float32)

    def labels_in(self, query: Sequence[tuple[str, str]]) -> set[str]:
        """Return the people, places, albums and years that a query names and a row has."""
        return {key for key in label_keys(query, (NAMED,)) if len(self.of(key)[0])}

    def similar_terms(self, word: str) -> list[str]:
        """List the terms of words that begin with a word or are one typing error away from it.

        The terms with its first letter are read, in 10 to 35 ms for a million records, and those
        whose first two letters are exchanged. To look up all words one error away takes up to 500.
        """
        blocks = json.dumps(list(range(-(-self.size // BLOCK_ROWS))))
        near = set(stems([word, *one_error_away(word)]))
        others = sorted(term for term in near if not term.startswith(word[0]))
        found, newer = set[str](), self.recent.terms()
        for mark in ("", MARKS[GENERATED]):
            for start in [word[0], *others]:
                between = self.connection.execute(
                    "SELECT DISTINCT w.term FROM json_each(?) AS b "
                    f'CROSS JOIN "{self.name}_words" AS w '
                    "ON w.block = b.value AND w.term >= ? AND w.term < ?",
                    (blocks, mark + start, mark + start + chr(0x10FFFF)),
                )
                begin = [term for term in newer if term.startswith(mark + start)]
                # Marked terms of other fields have a colon behind their first letters.
                all_terms = [*(term for (term,) in between), *begin]
                words = {term for term in all_terms if ":" not in term.removeprefix(mark)}
                found |= {term for term in words if _is_near(term.removeprefix(mark), word, near)}
        return sorted(found)


def _is_near(term: str, word: str, near: Collection[str]) -> bool:
    # "mountain" is the term of "mountains", of which "mountai" is the beginning.
    is_start = word.startswith(term) and len(word) - len(term) <= _LONGEST_ENDING
    return term in near or term.startswith(word) or is_start


def _replaced(data: bytes, gone: Bool[np.ndarray, " R"], added: Iterable[int] | None) -> bytes:
    """Return a BLOB without the postings of rows that are gone, and with those added."""
    new = np.array(added or (), "<u2")
    if data and gone.any():
        postings = np.frombuffer(data, "<u2").reshape(-1, 3)
        data = postings[~gone[postings[:, 0]]].tobytes()
    if not (data and len(new)) or int.from_bytes(data[-_POSTING_BYTES:][:2], "little") < new[0]:
        return data + new.tobytes()
    joined = np.frombuffer(data + new.tobytes(), "<u2").reshape(-1, 3)
    return joined[np.lexsort((joined[:, 1], joined[:, 0]))].tobytes()


def _blobs(
    connection: sqlite3.Connection, name: str, blocks: Sequence[int], terms: Sequence[str]
) -> list[tuple[int, str, bytes]]:
    """Read the BLOBs of terms in blocks, by block."""
    found = connection.execute(
        f"SELECT w.block, w.term, w.data FROM json_each(?) AS b CROSS JOIN json_each(?) AS t "
        f'CROSS JOIN "{name}_words" AS w ON w.block = b.value AND w.term = t.value',
        (json.dumps(list(blocks)), json.dumps(list(terms))),
    )
    return [(block, term, unsealed(data, "words")) for block, term, data in found]
