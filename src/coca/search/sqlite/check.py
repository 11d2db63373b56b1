"""Check of a SQLite file: its pages, and the derived data of each collection by its records.

Derived data are compared with data that are made of the records in the same way, block by block. A
repair writes each block that differs in a transaction of its own, so that it can be interrupted and
repeated; it changes no record.
"""

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from coca.core.errors import SearchError
from coca.core.progress import progress_bar
from coca.search.records import Record, check_records
from coca.search.sqlite import blocks, tables
from coca.search.sqlite.codes import BLOCK_ROWS
from coca.search.sqlite.compaction import compact
from coca.search.sqlite.database import FORMAT, DamageError, Database

_SAMPLE = 4
"""Blocks of each collection that are compared unless all are."""
_MOST_PAGES = 20
"""Findings of SQLite itself that are listed."""
_MOVED = 1_000
"""Records that move in a transaction."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found."""

    findings: tuple[str, ...]
    """A line for each."""
    left: int
    """Number of findings that were not repaired."""
    blocks: int
    """Blocks of 4,096 rows that were compared."""
    of_blocks: int
    """Blocks of these collections."""


def check_file(
    uri: str,
    collection: str | None = None,
    *,
    repair: bool = False,
    full: bool = False,
) -> CheckReport:
    """Check a SQLite file, and make derived data again that are not those of the records.

    Args:
        uri: Path of the file.
        collection: Name of a collection. Default: all.
        repair: Write what can be made of the records, in files of the former format as well;
            includes `full`.
        full: Compare all blocks instead of a sample of each collection.

    Raises:
        SearchError: There is no such file or collection.
    """
    with closing(Database(uri, create=False, timeout_s=60.0, repairs=repair)) as database:
        check = _Check(database, repair=repair, full=full or repair)
        check.pages()
        if not check.left:
            for name in check.names(collection):
                check.collection(name)
            check.finish(collection)
        return CheckReport(tuple(check.findings), check.left, check.compared, check.of_blocks)


class _Check:
    def __init__(self, database: Database, *, repair: bool, full: bool) -> None:
        self._database, self._repair, self._full = database, repair, full
        self.findings: list[str] = []
        self.left = self.compared = self.of_blocks = 0

    def pages(self) -> None:
        """Check the pages of the file, and make indexes and derived tables again."""
        found = self._damaged_pages()
        if found and self._repair:
            try:
                with self._database.writing() as connection:
                    for name in tables.names(connection):
                        tables.renew(connection, name)
                    connection.execute("REINDEX")
            except SearchError:
                pass
            left = self._damaged_pages()
            for line in found:
                self._found(line, repaired=not left)
            found = [line for line in left if line not in found]
        for line in found:
            self._found(line)
        if self.left:
            self._found(
                "pages of records may be damaged: restore a copy, or copy what can be read to "
                "another file with `coca migrate`"
            )

    def names(self, collection: str | None) -> Sequence[str]:
        """Return the collections to check."""
        with self._database.reading() as connection:
            names = tables.names(connection)
        if collection is not None and collection not in names:
            known = ", ".join(names) or "none"
            raise SearchError(f"{self._database.path} has no collection {collection!r}: {known}")
        return names if collection is None else [collection]

    def collection(self, name: str) -> None:
        """Check one collection."""
        if self._database.is_former:
            self._renew(name)
        with self._transaction() as connection:
            state = self._state(connection, name)
            self._rows(connection, name, state)
            former = blocks.former_blocks(connection, name)
        count = -(-state.rows // BLOCK_ROWS)
        some = list(range(count))
        if not self._full:
            some = sorted(random.Random(0).sample(some, min(_SAMPLE, count)))
        if former and not self._repair:
            self._found(f"{name}: {len(former)} blocks have words of an earlier version")
        self.of_blocks += count
        length = 0
        with progress_bar(f"check {name}", len(some)) as bar:
            for number in some:
                with self._transaction() as connection:
                    length += self._block(connection, name, number, number in former)
                bar.advance()
        self.compared += len(some)
        if self._full:
            self._length(name, state, length)
        if self._repair:
            self._compact(name)

    def finish(self, collection: str | None) -> None:
        """Give a file of the former format the new one, once all collections have it."""
        if self._database.is_former and collection is None:
            with self._database.writing() as connection:
                connection.execute(f"PRAGMA user_version={FORMAT}")

    def _renew(self, name: str) -> None:
        with self._database.writing() as connection:
            if not connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = ?", (f"{name}_recent",)
            ).fetchone():
                tables.renew(connection, name)
                self._found(f"{name}: derived tables of the former format", repaired=True)

    def _rows(self, connection: sqlite3.Connection, name: str, state: tables.State) -> None:
        """Compare the rows of the tables of a collection."""
        table, vectors, deleted = (f'"{name}{suffix}"' for suffix in ("", "_vectors", "_deleted"))
        checks = (
            (
                f"SELECT count(*) FROM {vectors} WHERE row NOT IN (SELECT row FROM {table})",
                f"DELETE FROM {vectors} WHERE row NOT IN (SELECT row FROM {table})",
                "vectors without a record",
            ),
            (
                f"SELECT count(*) FROM {deleted} WHERE row IN (SELECT row FROM {table})",
                f"UPDATE {deleted} SET row = NULL WHERE row IN (SELECT row FROM {table})",
                "rows of records that are free for others",
            ),
            (
                f"SELECT count(*) - {state.records} FROM {table}",
                f"UPDATE collections SET records = (SELECT count(*) FROM {table}) WHERE name = ?",
                "records more than are counted",
            ),
            (
                f"SELECT max(0, ifnull(max(row) + 1, 0) - {state.rows}) FROM {table}",
                f"UPDATE collections SET rows = (SELECT max(row) + 1 FROM {table}) WHERE name = ?",
                "rows more than are counted",
            ),
        )
        for count_sql, repair_sql, what in checks:
            (count,) = connection.execute(count_sql).fetchone()
            if count:
                self._found(f"{name}: {count} {what}", repaired=self._repair)
                if self._repair:
                    connection.execute(repair_sql, (name,) if "?" in repair_sql else ())

    def _block(self, connection: sqlite3.Connection, name: str, number: int, former: bool) -> int:
        """Compare a block with its records; return the sum of their lengths."""
        state = self._state(connection, name)
        records = dict(self._records(connection, name, number, state.embed_dim))
        block, words = blocks.made(records, number, state.embed_dim)
        different = blocks.differences(connection, name, number, block, words)
        if former and self._repair:
            different.append("words of an earlier version")
        # All blocks of a former file differ, which is one finding.
        if different and not self._database.is_former:
            line = f"{name}: block {number}: {', '.join(different)}"
            self._found(line, repaired=self._repair)
        if different and self._repair:
            seq = state.seq + 1
            blocks.replace(connection, name, number, block, words, seq=seq)
            connection.execute("UPDATE collections SET seq = ? WHERE name = ?", (seq, name))
        return sum(one.length for one in words.values())

    def _records(
        self, connection: sqlite3.Connection, name: str, number: int, embed_dim: int
    ) -> list[tuple[int, Record]]:
        """Read the records of a block; those that cannot be read are findings."""
        within = (number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)
        with suppress(DamageError, SearchError, sqlite3.DatabaseError):
            condition = "r.row >= ? AND r.row < ? ORDER BY r.row"
            records = tables.select(connection, name, condition, within, vectors=True)
            check_records([record for _, record in records], embed_dim)
            count = f'SELECT count(*) FROM "{name}" WHERE row >= ? AND row < ?'
            if (len(records),) == connection.execute(count, within).fetchone():
                return records
        # One of them cannot be read.
        readable = []
        sql = f'SELECT row FROM "{name}" WHERE row >= ? AND row < ? ORDER BY row'
        for (row,) in connection.execute(sql, within).fetchall():
            try:
                found = tables.select(connection, name, "r.row = ?", [row], vectors=True)
                if not found:
                    raise DamageError("it has no vectors")
                check_records([found[0][1]], embed_dim)
            except (DamageError, SearchError, sqlite3.DatabaseError) as error:
                self._found(f"{name}: the record of row {row} cannot be read: {error}")
            else:
                readable += found
        return readable

    def _length(self, name: str, before: tables.State, length: int) -> None:
        """Compare the sum of the lengths of all records, unless others have written since."""
        with self._transaction() as connection:
            words = self._state(connection, name).words
            newer = f'SELECT 1 FROM "{name}" WHERE seq > ?'
            if words == length or connection.execute(newer, (before.seq,)).fetchone():
                return
            self._found(f"{name}: the sum of lengths is {words}", repaired=self._repair)
            if self._repair:
                sql = "UPDATE collections SET words = ? WHERE name = ?"
                connection.execute(sql, (length, name))

    def _compact(self, name: str) -> None:
        """Move records to rows of deleted ones, see `compaction`."""
        moves = True
        while moves:
            with self._transaction() as connection:
                moves = compact(connection, name, self._state(connection, name), _MOVED)

    def _state(self, connection: sqlite3.Connection, name: str) -> tables.State:
        state = tables.state_of(connection, name)
        if state is None:
            raise SearchError(f"collection {name!r} was dropped during the check")
        return state

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        opened = self._database.writing() if self._repair else self._database.reading()
        with opened as connection:
            yield connection

    def _damaged_pages(self) -> list[str]:
        try:
            with self._database.reading() as connection:
                found = connection.execute(f"PRAGMA integrity_check({_MOST_PAGES})").fetchall()
        except SearchError as error:
            return [str(error)]
        return [line for (text,) in found if text != "ok" for line in text.splitlines()]

    def _found(self, line: str, *, repaired: bool = False) -> None:
        self.findings.append(f"{line} (repaired)" if repaired else line)
        self.left += not repaired
