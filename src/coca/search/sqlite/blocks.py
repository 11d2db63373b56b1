"""Blocks of a collection in its file, and the rows written since: derived from the records.

A write adds a small row to NAME_recent for each row of a record: flags, keys, the codes of its
vectors and its words. Once a block would have `FOLD_ROWS` such rows, the same transaction folds
them and its own into the block: `keys`, `image` and `text` in NAME_blocks, the words in NAME_words
(`postings`). A reader joins both. A fold changes nothing that a reader sees, so that it reads only
what it has not read.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Shaped

from coca.search.records import Record
from coca.search.sqlite import postings
from coca.search.sqlite.codes import BLOCK_ROWS, NO_ROWS, Codes
from coca.search.sqlite.database import DamageError, sealed, unsealed
from coca.search.sqlite.postings import RecentWords
from coca.search.sqlite.scan import EXISTS, GIVEN, HAS_TEXT, HIDDEN, Block, Scan
from coca.search.words import RULES, Words, analyzed, texts_of, words_from, words_to

FOLD_ROWS = 256
"""Rows of a block that wait in NAME_recent. With 256, a row costs 12 kB of folding, and a reader
that opens a million records reads 32,000 small rows."""
SUFFIXES = ("_blocks", "_words", "_recent")
"""Ends of the names of the tables."""
KINDS = ("image", "text")
"""Parts of a block that are codes."""
_KEYS = np.dtype([("flags", "u1"), ("content", "<u8"), ("album", "<u8")])
_WITHIN = "WHERE row >= ? AND row < ?"
_COLUMNS = "row, seq, keys, image, text, words, rules"


@dataclass(frozen=True, slots=True)
class _Recent:
    """Row that was written since its block; None is as in the block."""

    row: int
    seq: int
    keys: bytes
    image: bytes | None
    text: bytes | None
    words: Words | None
    rules: int

    def over(self, before: "_Recent | None") -> "_Recent":
        """Return this row with the parts that it has as before."""
        if before is None:
            return self
        return _Recent(
            self.row,
            self.seq,
            self.keys,
            before.image if self.image is None else self.image,
            before.text if self.text is None else self.text,
            before.words if self.words is None else self.words,
            min(before.rules, self.rules),
        )


def create(connection: sqlite3.Connection, name: str) -> None:
    """Create the derived tables of the collection `name`."""
    connection.execute(
        f'CREATE TABLE "{name}_blocks" (block INTEGER NOT NULL, kind TEXT NOT NULL, '
        "seq INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (block, kind))"
    )
    connection.execute(
        f'CREATE TABLE "{name}_recent" (row INTEGER PRIMARY KEY, seq INTEGER NOT NULL, '
        "keys BLOB NOT NULL, image BLOB, text BLOB, words BLOB, rules INTEGER NOT NULL)"
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
    codes: dict[str, Sequence[bytes | None]] = dict.fromkeys(KINDS, [None] * len(records))
    if vectors:
        codes = {kind: _codes(records.values(), kind, embed_dim).to_rows() for kind in KINDS}
    written = [
        _Recent(row, seq, _keys(record), image, text, words.get(row), RULES)
        for (row, record), image, text in zip(records.items(), *codes.values(), strict=True)
    ]
    for block, some in groupby(
        sorted(written, key=lambda one: one.row), lambda one: one.row // BLOCK_ROWS
    ):
        rows = list(some)
        count_sql = f'SELECT count(*) FROM "{name}_recent" {_WITHIN}'
        (count,) = connection.execute(count_sql, _range(block)).fetchone()
        # Rows that would be read and deleted at once are not written: a fill would write all twice.
        if count + len(rows) < FOLD_ROWS:
            _add(connection, name, rows)
        else:
            _fold(connection, name, block, rows, embed_dim)


def _add(connection: sqlite3.Connection, name: str, rows: Iterable[_Recent]) -> None:
    """Add rows to those that wait."""
    connection.executemany(
        f'INSERT INTO "{name}_recent" ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) '
        "ON CONFLICT (row) DO UPDATE SET seq = excluded.seq, keys = excluded.keys, "
        "image = coalesce(excluded.image, image), text = coalesce(excluded.text, text), "
        "words = coalesce(excluded.words, words), rules = min(excluded.rules, rules)",
        (
            (one.row, one.seq, *(None if part is None else sealed(part) for part in parts), RULES)
            for one in rows
            for words in [None if one.words is None else words_to(one.words)]
            for parts in [(one.keys, one.image, one.text, words)]
        ),
    )


def _fold(
    connection: sqlite3.Connection,
    name: str,
    block: int,
    rows: Iterable[_Recent],
    embed_dim: int,
) -> None:
    """Move the rows of a block that wait into it, and write others over them."""
    waiting = {one.row: one for one in _read_recent(connection, name, _WITHIN, _range(block))}
    waiting |= {one.row: one.over(waiting.get(one.row)) for one in rows}
    recent = [waiting[row] for row in sorted(waiting)]
    before = _block(_parts(connection, name, block), embed_dim)
    words = {one.row: one.words for one in recent if one.words is not None}
    known = {block * BLOCK_ROWS + offset for offset in np.flatnonzero(before.flags).tolist()}
    _write_parts(connection, name, block, _folded(before, recent), max(one.seq for one in recent))
    rules = min(one.rules for one in recent)
    postings.write(connection, name, block, words, stale=words.keys() & known, rules=rules)


def made(
    records: Mapping[int, Record], block: int, embed_dim: int
) -> tuple[Block, dict[int, Words]]:
    """Make a block and the words of its rows from its records."""
    keys = np.zeros(max(records, default=-1) + 1 - block * BLOCK_ROWS if records else 0, _KEYS)
    codes = {kind: Codes.from_bytes(NO_ROWS, embed_dim) for kind in KINDS}
    if records:
        offsets = [row % BLOCK_ROWS for row in records]
        keys[offsets] = np.frombuffer(b"".join(map(_keys, records.values())), _KEYS)
        for kind in KINDS:
            rows = _codes(records.values(), kind, embed_dim).to_rows()
            codes[kind] = codes[kind].replaced(
                list(zip(offsets, rows, strict=True)), max(offsets) + 1
            )
    return _keyed(keys, codes), {row: analyzed(texts_of(one)) for row, one in records.items()}


def differences(
    connection: sqlite3.Connection,
    name: str,
    number: int,
    block: Block,
    words: Mapping[int, Words],
) -> list[str]:
    """List the derived data of a block that are not those that `made` made."""
    try:
        recent = _read_recent(connection, name, _WITHIN, _range(number))
        stored = _block(_parts(connection, name, number), block.image.values.shape[1])
        stored = _folded(stored, recent) if recent else stored
        newer = {one.row: one.words for one in recent if one.words is not None}
        blobs = postings.merged(postings.read_block(connection, name, number), newer, newer)
    except (DamageError, sqlite3.DatabaseError) as error:
        return [str(error)]
    found, exists = [], np.flatnonzero(block.flags)
    for part in ("flags", "contents", "albums"):
        old, new = getattr(stored, part), getattr(block, part)
        if old[exists.max(initial=-1) + 1 :].any() and part == "flags":
            found.append("rows without records")
        if not np.array_equal(old[: len(new)], new):
            found.append(part)
    for kind in KINDS:
        old, new = getattr(stored, kind), getattr(block, kind)
        same = len(old.values) >= len(new.values) and all(
            np.array_equal(getattr(old, part)[exists], getattr(new, part)[exists])
            for part in ("values", "scales")
        )
        if not (same and np.all(old.limits >= new.limits)):
            found.append(f"codes of {kind}")
    terms = {term: data for term, data in blobs.items() if data}
    if terms != postings.merged({}, words, ()):
        found.append("words")
    return found


def replace(
    connection: sqlite3.Connection,
    name: str,
    number: int,
    block: Block,
    words: Mapping[int, Words],
    *,
    seq: int,
) -> None:
    """Write a block that `made` made in place of what is stored of it."""
    _write_parts(connection, name, number, block, seq)
    postings.clear(connection, name, number)
    postings.write(connection, name, number, words)


def cut(
    connection: sqlite3.Connection, name: str, rows: int, before: int, *, seq: int, embed_dim: int
) -> None:
    """Empty the blocks from row `rows` up to row `before`, which have no records any longer."""
    for number in range(rows // BLOCK_ROWS, -(-before // BLOCK_ROWS)):
        # An empty block, and not none: a reader that has it in memory learns of it.
        replace(connection, name, number, _block({}, embed_dim), {}, seq=seq)


def former_blocks(connection: sqlite3.Connection, name: str) -> set[int]:
    """Return the blocks with words by former rules of `coca.search.words`."""
    found = connection.execute(
        f'SELECT DISTINCT row / ? FROM "{name}_recent" WHERE rules < ?', (BLOCK_ROWS, RULES)
    )
    return {block for (block,) in found} | postings.former_blocks(connection, name)


def read(
    connection: sqlite3.Connection,
    name: str,
    scan: Scan,
    words: RecentWords,
    *,
    since: int,
    rows: int,
) -> tuple[Scan, RecentWords]:
    """Read what was written after `since` into a scan and the recent words of that state.

    Now the collection has `rows` rows, which may be less.
    """
    newer = f'SELECT DISTINCT block FROM "{name}_blocks" WHERE seq > ?'
    parts = {
        number: _parts(connection, name, number)
        for (number,) in connection.execute(newer, (since,)).fetchall()
    }
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
            recent += _read_recent(connection, name, _WITHIN, _range(number))
    found = {number: _block(some, scan.embed_dim) for number, some in parts.items()}
    for number, some in groupby(recent, lambda one: one.row // BLOCK_ROWS):
        old = found.get(number)
        if old is None and number < len(scan.blocks):
            old = scan.blocks[number]
        found[number] = _folded(old or _block({}, scan.embed_dim), list(some))
    newer_words = {one.row: one.words for one in recent if one.words is not None}
    scan = scan.replaced(found, -(-rows // BLOCK_ROWS)) if found else scan
    return scan, words.replaced(newer_words, parts)


def _read_recent(
    connection: sqlite3.Connection, name: str, condition: str, values: Sequence[int]
) -> list[_Recent]:
    found = connection.execute(
        f'SELECT {_COLUMNS} FROM "{name}_recent" {condition} ORDER BY row', values
    )
    recent = []
    for row, seq, keys, *parts, rules in found:
        data = (None if part is None else unsealed(part, "codes of a row") for part in parts)
        image, text, json = data
        words = None if json is None else words_from(json)
        recent.append(_Recent(row, seq, unsealed(keys, "keys of a row"), image, text, words, rules))
    return recent


def _parts(connection: sqlite3.Connection, name: str, block: int) -> dict[str, bytes]:
    found = connection.execute(f'SELECT kind, data FROM "{name}_blocks" WHERE block = ?', (block,))
    return {kind: unsealed(data, f"codes of block {block}") for kind, data in found}


def _write_parts(
    connection: sqlite3.Connection, name: str, number: int, block: Block, seq: int
) -> None:
    """Write a block, which has all recent rows."""
    keys = np.zeros(len(block.flags), _KEYS)
    keys["flags"], keys["content"], keys["album"] = block.flags, block.contents, block.albums
    parts = {"keys": keys.tobytes()} | {kind: getattr(block, kind).to_bytes() for kind in KINDS}
    connection.executemany(
        f'INSERT OR REPLACE INTO "{name}_blocks" (block, kind, seq, data) VALUES (?, ?, ?, ?)',
        ((number, kind, seq, sealed(part)) for kind, part in parts.items()),
    )
    connection.execute(f'DELETE FROM "{name}_recent" {_WITHIN}', _range(number))


def _range(block: int) -> tuple[int, int]:
    return block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS


def _block(parts: Mapping[str, bytes], embed_dim: int) -> Block:
    """Read the parts of a block; without any it has no rows."""
    codes = {kind: Codes.from_bytes(parts.get(kind, NO_ROWS), embed_dim) for kind in KINDS}
    return _keyed(np.frombuffer(parts.get("keys", b""), _KEYS), codes)


def _keyed(keys: Shaped[np.ndarray, " R"], codes: Mapping[str, Codes]) -> Block:
    flags, contents, albums = (np.ascontiguousarray(keys[field]) for field in _KEYS.names or ())
    return Block(
        flags=flags, contents=contents, albums=albums, image=codes["image"], text=codes["text"]
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
        for kind in KINDS
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


def _codes(records: Iterable[Record | None], kind: str, embed_dim: int) -> Codes:
    """Return the codes of each vector, zeros where there is none."""
    zero = np.zeros(embed_dim, np.float32)
    vectors = [
        None if record is None else record.vector if kind == "image" else record.text_vector
        for record in records
    ]
    rows = np.stack([zero if vector is None else vector for vector in vectors])
    return Codes.of(rows)
