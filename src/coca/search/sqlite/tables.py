"""Tables of a collection, and the records in their rows.

A collection NAME has the table NAME with one row a record, NAME_vectors with their vectors as
little-endian float32 and their perceptual hashes, and NAME_deleted with the ids of deleted records,
and their rows until others use them. NAME_blocks, NAME_words and NAME_recent are derived from
these, in the same transaction: codes for the scan and words (`blocks`). The table `saved_searches`,
which the first saved search of a file makes, has those of all collections.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from pydantic_core import from_json

from coca.core.errors import SearchError
from coca.search.records import (
    HIDDEN,
    HIT_FIELDS,
    METADATA,
    ORIGIN,
    PERCEPTUAL_HASH,
    TAGS,
    CollectionInfo,
    Hit,
    Origin,
    Record,
    from_plain,
    to_plain,
    unit_rows,
)
from coca.search.sqlite import blocks
from coca.search.sqlite.database import DamageError

SUFFIXES = ("_vectors", "_deleted", *blocks.SUFFIXES)
"""Ends of the names of tables, which no collection has."""
INDEXED = ("content", "path", "time", "seq")
"""Columns with an index."""
SEARCHES = "saved_searches"

_CREATE = """
CREATE TABLE "{name}" (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, path TEXT NOT NULL, content TEXT NOT NULL,
    caption TEXT NOT NULL, caption_source TEXT NOT NULL, album TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, time INTEGER NOT NULL,
    tags TEXT NOT NULL, hidden INTEGER NOT NULL, metadata TEXT NOT NULL,
    etag TEXT NOT NULL, label TEXT NOT NULL, captioned INTEGER NOT NULL, dated TEXT NOT NULL,
    read INTEGER NOT NULL, edits TEXT NOT NULL, seq INTEGER NOT NULL
);
CREATE TABLE "{name}_vectors" (
    row INTEGER PRIMARY KEY, image BLOB NOT NULL, caption BLOB, hash BLOB NOT NULL
);
CREATE TABLE "{name}_deleted" (id TEXT NOT NULL, row INTEGER UNIQUE, seq INTEGER NOT NULL);
"""

_AMONG = "IN (SELECT value FROM json_each(?))"
AMONG_ROWS = f"row {_AMONG}"
"""Condition that a row is in a JSON list."""
_FIELDS = (*HIT_FIELDS, *Origin.__slots__)
_JSON = (TAGS, METADATA, "edits")
_COLUMNS = ("row", "seq", "caption_source", *_FIELDS)
_SAME = ("row", "id", "content", "path", "time")
"""Columns with an index, but for the number of the write."""
_WRITE_BITS = 32
"""`writes` counts the collections that were created or promoted; below it, each counts its writes.
A number that all collections share would be one more page of each write."""


@dataclass(frozen=True, slots=True)
class State:
    """Row of a collection in the table `collections`; see `coca.search.sqlite.database`."""

    embed_dim: int
    fingerprint: str
    model: str
    records: int
    words: int
    rows: int
    seq: int
    full_before: int

    def info(self, name: str, uri: str, product: str) -> CollectionInfo:
        """Describe the collection."""
        return CollectionInfo(
            uri=uri,
            collection=name,
            count=self.records,
            embed_dim=self.embed_dim,
            fingerprint=self.fingerprint,
            model=self.model,
            store=product,
        )


def state_of(connection: sqlite3.Connection, name: str) -> State | None:
    """Read the state of a collection; None if it does not exist."""
    found = connection.execute(
        f"SELECT {', '.join(State.__slots__)} FROM collections WHERE name = ? COLLATE BINARY",
        (name,),
    ).fetchone()
    if found is None:
        return None
    state = State(*found)
    counts = (state.embed_dim, state.records, state.words, state.rows, state.seq, state.full_before)
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise DamageError(f"the entry of collection {name!r}")
    return state


def names(connection: sqlite3.Connection) -> list[str]:
    """Return the names of all collections, sorted."""
    return [name for (name,) in connection.execute("SELECT name FROM collections ORDER BY name")]


def create(
    connection: sqlite3.Connection, name: str, *, embed_dim: int, fingerprint: str, model: str
) -> None:
    """Create the tables of an empty collection."""
    for statement in filter(str.strip, _CREATE.format(name=name).split(";")):
        connection.execute(statement)
    _create_indexes(connection, name)
    blocks.create(connection, name)
    seq = _first_write(connection)
    connection.execute(
        "INSERT INTO collections (name, embed_dim, fingerprint, model, seq, full_before) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (name, embed_dim, fingerprint, model, seq, seq),
    )


def _create_indexes(connection: sqlite3.Connection, name: str) -> None:
    for column in INDEXED:
        connection.execute(f'CREATE INDEX "{name}_by_{column}" ON "{name}" ({column})')
    connection.execute(f'CREATE INDEX "{name}_deleted_by_seq" ON "{name}_deleted" (seq)')


def _first_write(connection: sqlite3.Connection) -> int:
    """Return the number of the first write of a collection, higher than all others of the file."""
    connection.execute("UPDATE writes SET seq = seq + 1")
    return int(connection.execute("SELECT seq FROM writes").fetchone()[0]) << _WRITE_BITS


def renew(connection: sqlite3.Connection, name: str) -> None:
    """Make the derived tables of a collection again, without content."""
    for suffix in blocks.SUFFIXES:
        connection.execute(f'DROP TABLE IF EXISTS "{name}{suffix}"')
    connection.execute(f'DROP INDEX IF EXISTS "{name}_deleted_by_seq"')
    connection.execute(f'CREATE INDEX "{name}_deleted_by_seq" ON "{name}_deleted" (seq)')
    blocks.create(connection, name)


def drop(connection: sqlite3.Connection, name: str) -> None:
    """Drop the tables of a collection."""
    for suffix in ("", *SUFFIXES):
        connection.execute(f'DROP TABLE "{name}{suffix}"')
    connection.execute("DELETE FROM collections WHERE name = ?", (name,))


def promote(connection: sqlite3.Connection, staged: str, name: str) -> None:
    """Rename the tables of a collection, and drop those that had the name before."""
    if state_of(connection, name) is not None:
        drop(connection, name)
    for suffix in ("", *SUFFIXES):
        connection.execute(f'ALTER TABLE "{staged}{suffix}" RENAME TO "{name}{suffix}"')
    for column in (*(f"by_{column}" for column in INDEXED), "deleted_by_seq"):
        connection.execute(f'DROP INDEX "{staged}_{column}"')
    _create_indexes(connection, name)
    seq = _first_write(connection)
    connection.execute(
        "UPDATE collections SET name = ?, seq = ?, full_before = ? WHERE name = ?",
        (name, seq, seq, staged),
    )


def read_searches(connection: sqlite3.Connection, collection: str) -> dict[str, str]:
    """Read the saved searches of a collection by name, sorted."""
    known = "SELECT 1 FROM sqlite_master WHERE name = ?"
    if not connection.execute(known, (SEARCHES,)).fetchone():
        return {}
    sql = f"SELECT name, search FROM {SEARCHES} WHERE collection = ? ORDER BY name"
    return dict(connection.execute(sql, (collection,)).fetchall())


def write_search(connection: sqlite3.Connection, collection: str, name: str, search: str) -> None:
    """Write a saved search of a collection; an empty one removes it."""
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {SEARCHES} (collection TEXT NOT NULL, name TEXT NOT NULL, "
        "search TEXT NOT NULL, PRIMARY KEY (collection, name))"
    )
    if search:
        sql = f"INSERT OR REPLACE INTO {SEARCHES} (collection, name, search) VALUES (?, ?, ?)"
        connection.execute(sql, (collection, name, search))
    else:
        sql = f"DELETE FROM {SEARCHES} WHERE collection = ? AND name = ?"
        connection.execute(sql, (collection, name))


def write_rows(
    connection: sqlite3.Connection,
    name: str,
    records: Mapping[int, Record],
    before: Mapping[int, Record],
    *,
    seq: int,
    vectors: bool,
) -> None:
    """Insert or update rows of records, and their vectors unless these are as before."""
    # An index whose columns are not set is not written.
    same = {
        row
        for row, record in records.items()
        if (old := before.get(row)) and _indexed(old) == _indexed(record)
    }
    columns = [column for column in _COLUMNS if column not in _SAME]
    connection.executemany(
        f'UPDATE "{name}" SET {", ".join(f"{column} = ?" for column in columns)} WHERE row = ?',
        (
            (*(values[column] for column in columns), row)
            for row in same
            if (values := _values(records[row], row, seq))
        ),
    )
    places = ", ".join("?" * len(_COLUMNS))
    connection.executemany(
        f'INSERT OR REPLACE INTO "{name}" ({", ".join(_COLUMNS)}) VALUES ({places})',
        (
            [*_values(record, row, seq).values()]
            for row, record in records.items()
            if row not in same
        ),
    )
    if vectors:
        connection.executemany(
            f'INSERT OR REPLACE INTO "{name}_vectors" (row, image, caption, hash) '
            "VALUES (?, ?, ?, ?)",
            (
                (row, _bytes(record.vector), _bytes(record.text_vector), record.perceptual_hash)
                for row, record in records.items()
            ),
        )


def _indexed(record: Record) -> tuple[Any, ...]:
    return tuple(getattr(record, column) for column in _SAME if column != "row")


def delete_rows(
    connection: sqlite3.Connection, name: str, rows: Mapping[str, int], *, seq: int
) -> None:
    """Delete rows by id, and note them for other records."""
    for suffix in ("", "_vectors"):
        connection.execute(
            f'DELETE FROM "{name}{suffix}" WHERE row {_AMONG}', (json.dumps([*rows.values()]),)
        )
    note_deleted(connection, name, rows, seq=seq)


def note_deleted(
    connection: sqlite3.Connection, name: str, rows: Mapping[str, int], *, seq: int
) -> None:
    """Note rows by the ids that were in them for other records."""
    connection.executemany(
        f'INSERT INTO "{name}_deleted" (id, row, seq) VALUES (?, ?, ?)',
        ((id, row, seq) for id, row in rows.items()),
    )


def free_rows(connection: sqlite3.Connection, name: str, count: int, *, before: int) -> list[int]:
    """Take the first rows of deleted records, at most `count` and all before a row."""
    sql = f'SELECT row FROM "{name}_deleted" WHERE row >= 0 AND row < ? ORDER BY row LIMIT ?'
    free = connection.execute(sql, (before, count)).fetchall()
    connection.executemany(f'UPDATE "{name}_deleted" SET row = NULL WHERE row = ?', free)
    return [row for (row,) in free]


def move_rows(
    connection: sqlite3.Connection, name: str, rows: Mapping[int, int], *, seq: int
) -> None:
    """Move records from rows to free ones."""
    connection.executemany(
        f'UPDATE "{name}" SET row = ?, seq = ? WHERE row = ?',
        ((new, seq, old) for old, new in rows.items()),
    )
    connection.executemany(
        f'UPDATE "{name}_vectors" SET row = ? WHERE row = ?',
        ((new, old) for old, new in rows.items()),
    )


def read_records(
    connection: sqlite3.Connection, name: str, ids: Iterable[str], *, vectors: bool
) -> dict[str, tuple[int, Record]]:
    """Read records with their rows by id; missing ids are skipped."""
    return {
        record.id: (row, record)
        for row, record in select(
            connection,
            name,
            f"r.id {_AMONG}",
            [json.dumps(list(ids))],
            vectors=vectors,
        )
    }


def read_seqs(connection: sqlite3.Connection, name: str, ids: Iterable[str]) -> dict[str, int]:
    """Read the number of the last write of records by id; missing ids are skipped."""
    sql = f'SELECT id, seq FROM "{name}" WHERE id {_AMONG}'
    return dict(connection.execute(sql, (json.dumps(list(ids)),)).fetchall())


def select(
    connection: sqlite3.Connection,
    name: str,
    condition: str,
    values: Sequence[Any],
    *,
    vectors: bool,
) -> list[tuple[int, Record]]:
    """Read the records of an SQL condition, with their rows."""
    columns = ", ".join(f"r.{column}" for column in _FIELDS)
    joined = f'"{name}" AS r'
    if vectors:
        columns += ", image_vector, caption_vector, hash"
        # Other names, as the condition reads columns without the name of their table.
        other = "row AS at, image AS image_vector, caption AS caption_vector, hash"
        joined += f' JOIN (SELECT {other} FROM "{name}_vectors") ON at = r.row'
    found = connection.execute(f"SELECT r.row, {columns} FROM {joined} WHERE {condition}", values)
    return [(row, _record(stored)) for row, *stored in found]


def read_hits(connection: sqlite3.Connection, name: str, rows: Sequence[int]) -> dict[int, Hit]:
    """Read hits with a score of 0 by existing rows."""
    found = select(connection, name, f"r.row {_AMONG}", [json.dumps(rows)], vectors=False)
    return {row: record.as_hit() for row, record in found}


def read_column(
    connection: sqlite3.Connection, table: str, column: str, rows: Sequence[int]
) -> list[Any]:
    """Read a column of existing rows, in this order."""
    found = dict(
        connection.execute(
            f'SELECT row, {column} FROM "{table}" WHERE row {_AMONG}', (json.dumps(rows),)
        ).fetchall()
    )
    if missing := found.keys() ^ set(rows):
        raise DamageError(f"row {min(missing)} of {table} is missing")
    return [found[row] for row in rows]


def stacked(vectors: Sequence[bytes | None], embed_dim: int) -> Float32[np.ndarray, "C E"]:
    """Join vectors of length 1 as they are stored; 0 where there is none."""
    zeros = bytes(4 * embed_dim)
    try:
        joined = b"".join([zeros if vector is None else vector for vector in vectors])
        rows = np.frombuffer(joined, "<f4").reshape(len(vectors), embed_dim)
        stored = [row for row, vector in enumerate(vectors) if vector is not None]
        if stored:
            unit_rows(rows[stored], embed_dim)
    except (TypeError, ValueError, SearchError) as error:
        raise DamageError("a vector") from error
    return rows


def _values(record: Record, row: int, seq: int) -> dict[str, Any]:
    fields = to_plain(record)
    fields |= fields.pop(ORIGIN)
    for name in _JSON:
        fields[name] = json.dumps(fields[name], ensure_ascii=False, allow_nan=False)
    values = {"row": row, "seq": seq, "caption_source": record.caption_source}
    return values | {name: fields[name] for name in _FIELDS}


def _record(stored: Sequence[Any]) -> Record:
    try:
        fields = dict(zip(_FIELDS, stored, strict=False))
        fields |= {
            **{name: from_json(fields[name]) for name in _JSON},
            HIDDEN: bool(fields[HIDDEN]),
            "captioned": bool(fields["captioned"]),
        }
        fields[ORIGIN] = {name: fields[name] for name in Origin.__slots__}
        if len(stored) == len(_FIELDS):
            return from_plain(fields)
        image, text, perceptual_hash = stored[len(_FIELDS) :]
        fields[PERCEPTUAL_HASH] = perceptual_hash.hex()
        text_vector = None if text is None else np.frombuffer(text, "<f4")
        return from_plain(fields, np.frombuffer(image, "<f4"), text_vector)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamageError(f"record {stored[_FIELDS.index('id')]!r}: {error}") from error


def _bytes(vector: Float32[np.ndarray, " E"] | None) -> bytes | None:
    return None if vector is None else np.ascontiguousarray(vector, "<f4").tobytes()
