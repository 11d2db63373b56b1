"""Compaction: the last records of a collection move to rows of deleted ones.

A search reads the codes of all rows up to the last one, and pages of the file with a few records
each are used by no others. So a collection with many free rows becomes shorter: records of its last
block move to free rows before it, and a block without records is cut off. The transactions are
small, and each of them leaves a whole collection: a process that is killed loses none of it.
"""

import sqlite3

from coca.search.sqlite import blocks, tables
from coca.search.sqlite.codes import BLOCK_ROWS
from coca.search.words import analyzed, texts_of

_MOST_FREE = 4
"""A quarter of the rows may be free. Each deletion beyond it costs one record that moves."""


def is_sparse(state: tables.State) -> bool:
    """Return whether a collection has more than one block, and many rows without records."""
    return state.rows > BLOCK_ROWS and _MOST_FREE * (state.rows - state.records) > state.rows


def compact(connection: sqlite3.Connection, name: str, state: tables.State, most: int) -> bool:
    """Move records of the last block, in the transaction of the connection.

    Args:
        connection: Connection within a transaction.
        name: Name of the collection.
        state: Its state.
        most: Number of records to move at most.

    Returns:
        Whether a record was moved or a block was cut off.
    """
    if not is_sparse(state):
        return False
    seq, start = state.seq + 1, (state.rows - 1) // BLOCK_ROWS * BLOCK_ROWS
    (count,) = connection.execute(
        f'SELECT count(*) FROM "{name}" WHERE row >= ?', (start,)
    ).fetchone()
    free = tables.free_rows(connection, name, min(count, most), before=start)
    condition = "r.row >= ? ORDER BY r.row DESC LIMIT ?"
    last = tables.select(connection, name, condition, (start, len(free)), vectors=True)
    moved = {row: record for row, (_, record) in zip(free, last, strict=True)}
    left = {record.id: row for row, record in last}
    tables.move_rows(connection, name, dict(zip(left.values(), free, strict=True)), seq=seq)
    (end,) = connection.execute(f'SELECT ifnull(max(row) + 1, 0) FROM "{name}"').fetchone()
    rows = state.rows if end > start else -(-end // BLOCK_ROWS) * BLOCK_ROWS
    if not moved and rows == state.rows:
        return False
    written = {**moved, **dict.fromkeys(left.values() if rows == state.rows else ())}
    if written:
        blocks.write(
            connection,
            name,
            written,
            {row: analyzed(texts_of(one) if one else {}) for row, one in written.items()},
            seq=seq,
            embed_dim=state.embed_dim,
            vectors=True,
        )
    if rows == state.rows:
        tables.note_deleted(connection, name, left, seq=seq)
    else:
        blocks.cut(connection, name, rows, state.rows, seq=seq, embed_dim=state.embed_dim)
        connection.execute(f'UPDATE "{name}_deleted" SET row = NULL WHERE row >= ?', (rows,))
    connection.execute("UPDATE collections SET seq = ?, rows = ? WHERE name = ?", (seq, rows, name))
    return True
