"""Postings of a collection in its file: BM25 of the words of records, derived from their texts.

    bm25(query, row) = sum over terms of idf * tf / (tf + k1 * (1 - b + b * length / mean length))
    idf = log(1 + (N - df + 0.5) / (df + 0.5))

tf is the sum over fields of weight times occurrences (BM25F), the weighted length of a row counts
all its terms by `FIELD_WEIGHTS`, and N counts all records.

The table NAME_words has a BLOB for each block of rows and each term in it, with 6 bytes for each
row and field: as 16-bit integers the row's offset in the block, the number of the field with the
occurrences, and the row's length in halves of a term. A write replaces the BLOBs of the terms of
its rows, which are in few pages, since the key begins with the block: a million records are
written in 30 s of processor time, and in 72 s with a key that begins with the term.

Dimensions: P postings, M matching rows.
"""

import json
import sqlite3
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt16

from coca.search.search_options import CaptionChoice
from coca.search.spelling import one_error_away
from coca.search.words import (
    FIELD_WEIGHTS,
    FIELDS,
    GENERATED,
    LABELS,
    MARKS,
    NAMED,
    TEXT,
    TEXT_FIELDS,
    analyzer,
    field_terms,
    label_keys,
    named_keys,
    search_terms,
    stems,
)

K1, B = 1.2, 0.75
"""Defaults of Lucene and Milvus."""
BLOCK_ROWS = 4_096

_ANALYZER_BLOCK = -1
"""Block with the version of the analysis in place of a term."""
_MOST_OCCURRENCES, _MOST_LENGTH = 255, 65_535
_POSTING_BYTES = 6
_LONGEST_ENDING = 3
"""Letters of an ending that stems lack, such as "ing"."""
_TF = np.outer([*FIELD_WEIGHTS.values()], range(_MOST_OCCURRENCES + 1)).astype(np.float32).ravel()
_IS_LABEL = np.repeat([field in LABELS for field in FIELDS], _MOST_OCCURRENCES + 1)
_IS_TEXT = np.repeat([field in TEXT_FIELDS for field in FIELDS], _MOST_OCCURRENCES + 1)

Texts = Mapping[int, Mapping[str, str]]
"""Texts of rows by field, see `coca.search.words.texts_of`."""


def create(connection: sqlite3.Connection, name: str) -> None:
    """Create the table of the collection `name`."""
    connection.execute(
        f'CREATE TABLE "{name}_words" (block INTEGER NOT NULL, term TEXT NOT NULL, '
        "data BLOB NOT NULL, PRIMARY KEY (block, term)) WITHOUT ROWID"
    )
    clear(connection, name)


def clear(connection: sqlite3.Connection, name: str) -> None:
    """Delete all postings, after which those of all rows must be written again."""
    connection.execute(f'DELETE FROM "{name}_words"')
    values = (_ANALYZER_BLOCK, analyzer(), b"")
    connection.execute(f'INSERT INTO "{name}_words" (block, term, data) VALUES (?, ?, ?)', values)


def is_current(connection: sqlite3.Connection, name: str) -> bool:
    """Return whether the terms are those of this version of the analysis."""
    sql = f'SELECT 1 FROM "{name}_words" WHERE block = ? AND term = ?'
    return connection.execute(sql, (_ANALYZER_BLOCK, analyzer())).fetchone() is not None


def write(connection: sqlite3.Connection, name: str, old: Texts, new: Texts) -> int:
    """Replace the postings of rows, in the transaction of the connection.

    Args:
        connection: Connection within a transaction.
        name: Name of the collection.
        old: Texts of the rows as they were written before; rows that `new` lacks are deleted.
        new: Texts of the rows from now on.

    Returns:
        Change of the sum of the lengths of all rows, in halves of a term.
    """
    same = {row for row, texts in old.items() if texts == new.get(row)}
    removed: dict[int, set[str]] = defaultdict(set)
    gone: dict[int, Bool[np.ndarray, " R"]] = {}
    change = 0
    for row in old.keys() - same:
        block, offset = divmod(row, BLOCK_ROWS)
        gone.setdefault(block, np.zeros(BLOCK_ROWS, bool))[offset] = True
        fields = _occurrences(old[row])
        removed[block].update(*fields.values())
        change -= _length(fields)
    added: dict[int, dict[str, array[int]]] = defaultdict(lambda: defaultdict(lambda: array("H")))
    for row in sorted(new.keys() - same):
        block, offset = divmod(row, BLOCK_ROWS)
        fields = _occurrences(new[row])
        length = _length(fields)
        change += length
        for field, counts in fields.items():
            number = FIELDS.index(field) << 8
            for term, count in counts.items():
                posting = (offset, number | min(count, _MOST_OCCURRENCES), length)
                added[block][term].extend(posting)
    for block in removed.keys() | added.keys():
        terms = sorted(removed[block] | added[block].keys())
        stored = _blobs(connection, name, [block], terms)
        blobs = {term: data for _, term, data in stored}
        without = gone.get(block)
        changed = {
            term: _replaced(blobs.get(term, b""), without, added[block].get(term)) for term in terms
        }
        connection.executemany(
            f'INSERT OR REPLACE INTO "{name}_words" (block, term, data) VALUES (?, ?, ?)',
            ((block, term, data) for term, data in changed.items() if data),
        )
        connection.executemany(
            f'DELETE FROM "{name}_words" WHERE block = ? AND term = ?',
            ((block, term) for term, data in changed.items() if not data and term in blobs),
        )
    return change


def scores(
    connection: sqlite3.Connection,
    name: str,
    query: Sequence[tuple[str, str]],
    *,
    records: int,
    mean_length: float,
    captions: CaptionChoice = "all",
) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
    """Compute the BM25 of all rows that share a term with a query.

    Args:
        connection: Connection to the file.
        name: Name of the collection.
        query: Terms of the query, see `coca.search.words.query_terms`.
        records: Number of records of the collection.
        mean_length: Mean length of its rows, in halves of a term; see `write`.
        captions: Captions that count; see `Ranking.captions`.

    Returns:
        Rows, ascending, and their BM25, above 0.
    """
    lengths = np.arange(_MOST_LENGTH + 1, dtype=np.float32)
    norm_of = K1 * (1 - B) + np.float32(K1 * B / (mean_length or 1)) * lengths
    blocks = _blocks(connection, name)
    total = np.zeros(len(blocks) * BLOCK_ROWS, np.float32)
    for term in search_terms(query, captions):
        rows, fields, row_lengths = _postings(_blobs(connection, name, blocks, [term]))
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


def similar_terms(connection: sqlite3.Connection, name: str, word: str) -> list[str]:
    """List the terms of words that begin with a word or are one typing error away from it.

    The terms with its first letter are read, in 10 to 35 ms for a million records, and those whose
    first two letters are exchanged. To look up all words one error away takes up to 500 ms.
    """
    blocks = json.dumps(list(_blocks(connection, name)))
    near = set(stems([word, *one_error_away(word)]))
    others = sorted(term for term in near if not term.startswith(word[0]))
    found: set[str] = set()
    for mark in ("", MARKS[GENERATED]):
        for start in [word[0], *others]:
            between = connection.execute(
                f'SELECT DISTINCT w.term FROM json_each(?) AS b CROSS JOIN "{name}_words" AS w '
                "ON w.block = b.value AND w.term >= ? AND w.term < ?",
                (blocks, mark + start, mark + start + chr(0x10FFFF)),
            )
            # Marked terms of other fields have a colon behind their first letters.
            words = {term for (term,) in between if ":" not in term.removeprefix(mark)}
            found |= {term for term in words if _is_near(term.removeprefix(mark), word, near)}
    return sorted(found)


def _is_near(term: str, word: str, near: Collection[str]) -> bool:
    # "mountain" is the term of "mountains", of which "mountai" is the beginning.
    is_start = word.startswith(term) and len(word) - len(term) <= _LONGEST_ENDING
    return term in near or term.startswith(word) or is_start


def rows_of(
    connection: sqlite3.Connection, name: str, terms: Sequence[str]
) -> list[Int64[np.ndarray, " M"]]:
    """Return the rows that have each of these terms, ascending."""
    blocks = _blocks(connection, name)
    return [np.unique(_postings(_blobs(connection, name, blocks, [term]))[0]) for term in terms]


def text_matches(
    connection: sqlite3.Connection, name: str, query: Sequence[tuple[str, str]]
) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
    """Compute the match of a query with the labels and texts of each row.

    Returns:
        Rows with a match, ascending, and its value, above 0; see `text_match` of
        `coca.search.words`.
    """
    blocks = _blocks(connection, name)
    words = np.zeros(len(blocks) * BLOCK_ROWS, np.float32)
    in_labels = set[int]()
    for number, word in enumerate(query):
        marked = [MARKS[TEXT] + term for term in word]
        rows, fields, _ = _postings(_blobs(connection, name, blocks, [*word, *marked]))
        has_word = np.zeros(len(words), bool)
        has_word[rows[_IS_TEXT[fields]]] = True
        words += has_word
        # The year of a date is in no other field.
        if word[0].isdigit() or _IS_LABEL[fields].any():
            in_labels.add(number)
    matches: Float[np.ndarray, " N"] = (words / max(len(query), 1)) ** 4
    # A label covers words of the query, and several labels of a row may cover the same.
    named, tagged = dict[int, Bool[np.ndarray, " N"]](), dict[int, Bool[np.ndarray, " N"]]()
    for key, span in label_keys(query).items():
        if not in_labels.issuperset(span):
            continue
        rows, _, _ = _postings(_blobs(connection, name, blocks, [key]))
        if len(rows):
            covered = named if key.startswith(MARKS[NAMED]) else tagged
            for position in span:
                covered.setdefault(position, np.zeros(len(words), bool))[rows] = True
    if named or tagged:
        none = np.zeros(len(words))
        tags = sum(tagged.values(), none) / max(len(query), 1)
        matches += sum(named.values(), none) + tags**2
    rows = np.flatnonzero(matches > 0)
    return rows, matches[rows].astype(np.float32)


def labels_in(
    connection: sqlite3.Connection, name: str, query: Sequence[tuple[str, str]]
) -> set[str]:
    """Return the people, places, albums and years that a query names and a row has."""
    stored = _blobs(connection, name, _blocks(connection, name), [*named_keys(query)])
    return {term for _, term, _ in stored}


def _occurrences(texts: Mapping[str, str]) -> dict[str, Counter[str]]:
    return {field: Counter(terms) for field, terms in field_terms(texts).items()}


def _length(fields: Mapping[str, Counter[str]]) -> int:
    """Return the weighted length of a row, in halves of a term."""
    weighted = (FIELD_WEIGHTS.get(field, 0) * counts.total() for field, counts in fields.items())
    return min(round(2 * sum(weighted)), _MOST_LENGTH)


def _replaced(
    data: bytes, gone: Bool[np.ndarray, " R"] | None, added: Iterable[int] | None
) -> bytes:
    """Return a BLOB without the postings of rows that are gone, and with those added."""
    new = np.array(added or (), "<u2")
    if gone is not None:
        postings = np.frombuffer(data, "<u2").reshape(-1, 3)
        data = postings[~gone[postings[:, 0]]].tobytes()
    if not (data and len(new)) or int.from_bytes(data[-_POSTING_BYTES:][:2], "little") < new[0]:
        return data + new.tobytes()
    joined = np.frombuffer(data + new.tobytes(), "<u2").reshape(-1, 3)
    return joined[np.lexsort((joined[:, 1], joined[:, 0]))].tobytes()


def _blocks(connection: sqlite3.Connection, name: str) -> range:
    (last,) = connection.execute(f'SELECT max(block) FROM "{name}_words"').fetchone()
    return range(last + 1)


def _blobs(
    connection: sqlite3.Connection, name: str, blocks: Sequence[int], terms: Sequence[str]
) -> list[tuple[int, str, bytes]]:
    """Read the BLOBs of terms in blocks, by block."""
    return connection.execute(
        f"SELECT w.block, w.term, w.data FROM json_each(?) AS b CROSS JOIN json_each(?) AS t "
        f'CROSS JOIN "{name}_words" AS w ON w.block = b.value AND w.term = t.value',
        (json.dumps(list(blocks)), json.dumps(list(terms))),
    ).fetchall()


def _postings(
    blobs: Sequence[tuple[int, str, bytes]],
) -> tuple[Int64[np.ndarray, " P"], UInt16[np.ndarray, " P"], UInt16[np.ndarray, " P"]]:
    """Return rows, fields with occurrences, and lengths of postings."""
    postings = np.frombuffer(b"".join([data for _, _, data in blobs]), "<u2").reshape(-1, 3)
    firsts = np.array([block * BLOCK_ROWS for block, _, _ in blobs], np.int64)
    counts = [len(data) // _POSTING_BYTES for _, _, data in blobs]
    return np.repeat(firsts, counts) + postings[:, 0], postings[:, 1], postings[:, 2]
