"""Blocks of a collection in its file, and the rows written since: derived from the records.

A write adds a small row to NAME_recent for each row of a record: flags, keys, the codes of its
vectors and its words. Once a block has `FOLD_ROWS` such rows, the same transaction folds them into
the block: `keys`, `image` and `text` in NAME_blocks, the words in NAME_words (`postings`). A reader
joins both. A fold changes nothing that a reader sees, so that it reads only what it has not read.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Any

import numpy as np

from coca.search.records import Record
from coca.search.sqlite import postings
from coca.search.sqlite.codes import BLOCK_ROWS, Codes
from coca.search.sqlite.postings import RecentWords
from coca.search.sqlite.scan import EXISTS, GIVEN, HAS_TEXT, HIDDEN, Block, Scan
from coca.search.words import RULES, Words, words_from, words_to

FOLD_ROWS = 256
"""Rows of a block that wait in NAME_recent. With 256, a row costs 12 kB of folding, and a reader
that opens a million records reads 32,000 small rows."""
_KEYS = np.dtype([("flags", "u1"), ("content", "<u8"), ("album", "<u8")])
_COLUMNS = "row, seq, keys, image, text, words, rules"


@dataclass(frozen=True, slots=True)
class _Recent:
    """Row that was written since its block; None is as in the block."""

    row: int
    seq: int
    keys: bytes
    image: bytes | None
    text: bytes | None
    words: str | None
    rules: int


def create(connection: sqlite3.Connection, name: str) -> None:
    """Create the derived tables of the collection `name`."""
    connection.execute(
        f'CREATE TABLE "{name}_blocks" (block INTEGER NOT NULL, kind TEXT NOT NULL, '
        "seq INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (block, kind))"
    )
    connection.execute(
        f'CREATE TABLE "{name}_recent" (row INTEGER PRIMARY KEY, seq INTEGER NOT NULL, '
        "keys BLOB NOT NULL, image BLOB, text BLOB, words TEXT, rules INTEGER NOT NULL)"
    )
    postings.create(connection, name)


def write(
    connection: sqlite3.Connection,
    name: str,
    records: Mapping[int, Record | None],
    words: Mapping[int, Words],
    *,
    seq: int,
    embed_dim: int,
    vectors: bool,
) -> None:
    """Add rows that were written, or deleted (None), and fold blocks that have many.

    Without `vectors` these are as before, and so are the words of rows that `words` lacks.
    """
    codes: dict[str, Sequence[bytes | None]] = dict.fromkeys(
        ("image", "text"), [None] * len(records)
    )
    if vectors:
        codes = {kind: _codes(records.values(), kind, embed_dim) for kind in codes}
    connection.executemany(
        f'INSERT INTO "{name}_recent" ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) '
        "ON CONFLICT (row) DO UPDATE SET seq = excluded.seq, keys = excluded.keys, "
        "image = coalesce(excluded.image, image), text = coalesce(excluded.text, text), "
        "words = coalesce(excluded.words, words), rules = excluded.rules",
        (
            (row, seq, _keys(record), *some, words_to(words[row]) if row in words else None, RULES)
            for (row, record), *some in zip(records.items(), *codes.values(), strict=True)
        ),
    )
    for block in {row // BLOCK_ROWS for row in records}:
        (count,) = connection.execute(
            f'SELECT count(*) FROM "{name}_recent" WHERE row >= ? AND row < ?', _range(block)
        ).fetchone()
        if count >= FOLD_ROWS:
            fold(connection, name, block, embed_dim)


def fold(connection: sqlite3.Connection, name: str, block: int, embed_dim: int) -> None:
    """Move the recent rows of a block into it; a block without any stays as it is."""
    recent = _read_recent(connection, name, "WHERE row >= ? AND row < ?", _range(block))
    if not recent:
        return
    parts = dict(
        connection.execute(f'SELECT kind, data FROM "{name}_blocks" WHERE block = ?', (block,))
    )
    keys = np.frombuffer(parts.get("keys", b""), _KEYS)
    before = keys["flags"]
    rows = {one.row: words_from(one.words) for one in recent if one.words is not None}
    stale = {row for row in rows if row % BLOCK_ROWS < len(before) and before[row % BLOCK_ROWS]}
    folded = _folded(_block(parts, embed_dim), recent)
    keys = np.zeros(len(folded.flags), _KEYS)
    for field, values in zip(
        _KEYS.names or (), (folded.flags, folded.contents, folded.albums), strict=True
    ):
        keys[field] = values
    data = {
        "keys": keys.tobytes(),
        "image": folded.image.to_bytes(),
        "text": folded.text.to_bytes(),
    }
    seq = max(one.seq for one in recent)
    connection.executemany(
        f'INSERT OR REPLACE INTO "{name}_blocks" (block, kind, seq, data) VALUES (?, ?, ?, ?)',
        ((block, kind, seq, part) for kind, part in data.items()),
    )
    rules = min(one.rules for one in recent)
    postings.write(connection, name, block, rows, stale=stale, rules=rules)
    connection.execute(f'DELETE FROM "{name}_recent" WHERE row >= ? AND row < ?', _range(block))


def read(
    connection: sqlite3.Connection, name: str, scan: Scan, words: RecentWords, *, since: int
) -> tuple[Scan, RecentWords]:
    """Read what was written after `since` into a scan and the recent words of that state."""
    parts: dict[int, dict[str, bytes]] = defaultdict(dict)
    for number, kind, data in connection.execute(
        f'SELECT block, kind, data FROM "{name}_blocks" '
        f'WHERE block IN (SELECT block FROM "{name}_blocks" WHERE seq > ?)',
        (since,),
    ):
        parts[number][kind] = data
    if since < 0:
        recent = _read_recent(connection, name, "", ())
    else:
        changed = (
            f'WHERE row IN (SELECT row FROM "{name}" WHERE seq > ? '
            f'UNION SELECT row FROM "{name}_deleted" WHERE seq > ? AND row >= 0)'
        )
        recent = _read_recent(connection, name, changed, (since, since))
        recent = [one for one in recent if one.row // BLOCK_ROWS not in parts]
        for number in parts:
            within = "WHERE row >= ? AND row < ?"
            recent += _read_recent(connection, name, within, _range(number))
    found = {number: _block(some, scan.embed_dim) for number, some in parts.items()}
    for number, rows in groupby(recent, lambda one: one.row // BLOCK_ROWS):
        old = found.get(number)
        if old is None and number < len(scan.blocks):
            old = scan.blocks[number]
        found[number] = _folded(old or _block({}, scan.embed_dim), list(rows))
    analyzed = {one.row: words_from(one.words) for one in recent if one.words is not None}
    return scan.replaced(found) if found else scan, words.replaced(analyzed, parts)


def _read_recent(
    connection: sqlite3.Connection, name: str, condition: str, values: Sequence[int]
) -> list[_Recent]:
    found = connection.execute(
        f'SELECT {_COLUMNS} FROM "{name}_recent" {condition} ORDER BY row', values
    )
    return [_Recent(*stored) for stored in found]


def _range(block: int) -> tuple[int, int]:
    return block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS


def _block(parts: Mapping[str, bytes], embed_dim: int) -> Block:
    """Read the parts of a block; without any it has no rows."""
    keys = np.frombuffer(parts.get("keys", b""), _KEYS)
    none = Codes.of(np.zeros((0, embed_dim), np.float32)).to_bytes()
    flags, contents, albums = (np.ascontiguousarray(keys[field]) for field in _KEYS.names or ())
    return Block(
        flags=flags,
        contents=contents,
        albums=albums,
        image=Codes.from_bytes(parts.get("image", none), embed_dim),
        text=Codes.from_bytes(parts.get("text", none), embed_dim),
    )


def _folded(block: Block, recent: Sequence[_Recent]) -> Block:
    """Return a block with recent rows, which may extend it."""
    offsets = np.array([one.row % BLOCK_ROWS for one in recent], np.int64)
    count = max(len(block.flags), int(offsets.max()) + 1)
    new = np.frombuffer(b"".join([one.keys for one in recent]), _KEYS)
    arrays: list[Any] = []
    for field, values in zip(
        _KEYS.names or (), (block.flags, block.contents, block.albums), strict=True
    ):
        values = np.concatenate([values, np.zeros(count - len(values), values.dtype)])
        values[offsets] = new[field]
        arrays.append(values)
    codes = {
        kind: getattr(block, kind).replaced(
            [
                (int(at), data)
                for at, one in zip(offsets, recent, strict=True)
                if (data := getattr(one, kind)) is not None
            ],
            count,
        )
        for kind in ("image", "text")
    }
    return Block(*arrays, **codes)


def _keys(record: Record | None) -> bytes:
    if record is None:
        return bytes(_KEYS.itemsize)
    flags = EXISTS
    flags |= HIDDEN if record.hidden else 0
    flags |= HAS_TEXT if record.text_vector is not None else 0
    flags |= GIVEN if record.caption_source == "given" else 0
    return np.array((flags, _hash(record.content), _hash(record.album)), _KEYS).tobytes()


def _hash(text: str) -> int:
    """Return a key of a text, the same in each process; 0 for an empty text."""
    if not text:
        return 0
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _codes(records: Iterable[Record | None], kind: str, embed_dim: int) -> list[bytes]:
    """Return the codes of each vector, zeros where there is none."""
    zero = np.zeros(embed_dim, np.float32)
    vectors = [
        None if record is None else record.vector if kind == "image" else record.text_vector
        for record in records
    ]
    rows = np.stack([zero if vector is None else vector for vector in vectors])
    return Codes.of(rows).to_rows()
