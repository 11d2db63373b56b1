"""Blocks of a collection in its file: what the scan of vectors needs, derived from the records.

The part `keys` of a block has flags, content and album of each row, and the parts `image` and
`text` have the codes of its vectors. A write replaces the parts of the rows that it changes, in its
own transaction, with its number: a reader loads what is newer than what it has.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
from jaxtyping import Float32

from coca.search.records import Record
from coca.search.sqlite.codes import BLOCK_ROWS, Codes
from coca.search.sqlite.scan import EXISTS, GIVEN, HAS_TEXT, HIDDEN, Block

_KEYS = np.dtype([("flags", "u1"), ("content", "<u8"), ("album", "<u8")])


def write(
    connection: sqlite3.Connection,
    name: str,
    records: Mapping[int, Record | None],
    *,
    seq: int,
    embed_dim: int,
    vectors: bool,
) -> None:
    """Replace the parts of blocks by rows that were written, or deleted (None).

    Without `vectors` these are as before.
    """
    by_block: dict[int, list[int]] = defaultdict(list)
    for row in sorted(records):
        by_block[row // BLOCK_ROWS].append(row)
    for block, rows in by_block.items():
        found = dict(
            connection.execute(f'SELECT kind, data FROM "{name}_blocks" WHERE block = ?', (block,))
        )
        offsets = np.array(rows, np.int64) - block * BLOCK_ROWS
        some = [records[row] for row in rows]
        keys = np.frombuffer(found.get("keys", b""), _KEYS)
        count = max(len(keys), int(offsets[-1]) + 1)
        keys = np.concatenate([keys, np.zeros(count - len(keys), _KEYS)])
        keys[offsets] = np.array([_key(record) for record in some], _KEYS)
        parts = {"keys": keys.tobytes()}
        if vectors:
            none = np.zeros((0, embed_dim), np.float32)
            zero = np.zeros(embed_dim, np.float32)
            for kind in ("image", "text"):
                old = Codes.from_bytes(found[kind], embed_dim) if kind in found else Codes.of(none)
                new = np.stack([_vector(record, kind, zero) for record in some])
                parts[kind] = old.replaced(offsets, new).to_bytes()
        connection.executemany(
            f'INSERT OR REPLACE INTO "{name}_blocks" (block, kind, seq, data) VALUES (?, ?, ?, ?)',
            ((block, kind, seq, data) for kind, data in parts.items()),
        )


def read(
    connection: sqlite3.Connection, name: str, *, since: int, embed_dim: int
) -> dict[int, Block]:
    """Read the blocks that were written after `since`, by number."""
    parts: dict[int, dict[str, bytes]] = defaultdict(dict)
    for block, kind, data in connection.execute(
        f'SELECT block, kind, data FROM "{name}_blocks" '
        f'WHERE block IN (SELECT block FROM "{name}_blocks" WHERE seq > ?)',
        (since,),
    ):
        parts[block][kind] = data
    found = {}
    for block, some in parts.items():
        keys = np.frombuffer(some["keys"], _KEYS)
        flags, contents, albums = (np.ascontiguousarray(keys[name]) for name in _KEYS.names or ())
        found[block] = Block(
            flags=flags,
            contents=contents,
            albums=albums,
            image=Codes.from_bytes(some["image"], embed_dim),
            text=Codes.from_bytes(some["text"], embed_dim),
        )
    return found


def _key(record: Record | None) -> tuple[int, int, int]:
    if record is None:
        return 0, 0, 0
    flags = EXISTS
    flags |= HIDDEN if record.hidden else 0
    flags |= HAS_TEXT if record.text_vector is not None else 0
    flags |= GIVEN if record.caption_source == "given" else 0
    return flags, _hash(record.content), _hash(record.album)


def _hash(text: str) -> int:
    """Return a key of a text, the same in each process; 0 for an empty text."""
    if not text:
        return 0
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _vector(
    record: Record | None, kind: str, zero: Float32[np.ndarray, " E"]
) -> Float32[np.ndarray, " E"]:
    vector = None if record is None else record.vector if kind == "image" else record.text_vector
    return zero if vector is None else vector
