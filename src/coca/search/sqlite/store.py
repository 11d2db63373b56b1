"""Store of collections in one SQLite file."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from coca.core.errors import ArgumentError, SearchError
from coca.search.records import CollectionInfo
from coca.search.sqlite import tables
from coca.search.sqlite.collection import SqliteCollection
from coca.search.sqlite.database import Database
from coca.search.store import Store, check_characters, default_collection, missing_collection

_TABLES = frozenset(("collections", "writes", tables.SEARCHES))
_ENDS = (*tables.SUFFIXES, *(f"_by_{column}" for column in tables.INDEXED))
"""Ends of the names of tables and indexes of a collection."""


class SqliteStore(Store):
    """Collections in one SQLite file; several threads and processes may use it at once.

    Attributes:
        uri: Path of the file, as it was given.
        product: Name and version of SQLite.
    """

    def __init__(self, uri: str, *, create: bool = False, timeout_s: float = 60.0) -> None:
        """Open the file; see `coca.search.stores.open_store`."""
        self.uri = uri
        self.product = f"SQLite {sqlite3.sqlite_version}"
        self._database = Database(uri, create=create, timeout_s=timeout_s)

    def list(self) -> Sequence[CollectionInfo]:
        """Describe all collections, sorted by name."""
        with self._database.reading() as connection:
            states = [
                (name, tables.state_of(connection, name)) for name in tables.names(connection)
            ]
        return [state.info(name, self.uri, self.product) for name, state in states if state]

    def has(self, collection: str) -> bool:
        """Return whether there is a collection of that name."""
        with self._database.reading() as connection:
            return tables.state_of(connection, collection) is not None

    def create(
        self,
        collection: str,
        *,
        embed_dim: int,
        fingerprint: str,
        model: str = "",
        settings: Any = None,
    ) -> SqliteCollection:
        """Create an empty collection, and open it; see `Store.create`."""
        if settings is not None:
            raise ArgumentError(
                f"{self.uri} is a SQLite file, which searches exactly and has no settings of an "
                "index: leave them out, or use a Milvus server"
            )
        check_name(collection)
        if embed_dim < 1:
            raise ArgumentError(f"embed_dim must be at least 1, got {embed_dim}")
        with self._database.writing() as connection:
            # Names of tables are the same in capital letters.
            sql = "SELECT name FROM collections WHERE name = ?"
            if same := connection.execute(sql, (collection,)).fetchone():
                raise SearchError(f"there is a collection {same[0]!r} in {self.uri} already")
            tables.create(
                connection, collection, embed_dim=embed_dim, fingerprint=fingerprint, model=model
            )
        return self.open(collection)

    def open(self, collection: str | None = None) -> SqliteCollection:
        """Open a collection; see `Store.open`."""
        if collection is None:
            collection = default_collection(self)
        with self._database.reading() as connection:
            info = self._existing(connection, collection).info(collection, self.uri, self.product)
        return SqliteCollection(self._database, info)

    def drop(self, collection: str) -> None:
        """Delete a collection with all its records; the file reuses its space."""
        with self._database.writing() as connection:
            self._existing(connection, collection)
            tables.drop(connection, collection)
            for name in tables.read_searches(connection, collection):
                tables.write_search(connection, collection, name, "")

    def promote(
        self, staged: str, collection: str, *, is_ready: Callable[[], bool] = lambda: True
    ) -> bool:
        """Let the collection `staged` take the name `collection`, in one transaction."""
        check_name(collection)
        with self._database.writing() as connection:
            self._existing(connection, staged)
            if staged == collection:
                return True
            if not is_ready():
                return False
            tables.promote(connection, staged, collection)
        return True

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        self._database.close()

    def _existing(self, connection: sqlite3.Connection, collection: str) -> tables.State:
        state = tables.state_of(connection, collection)
        if state is None:
            raise missing_collection(self.uri, collection, tables.names(connection))
        return state


def check_name(collection: str) -> None:
    """Check that a name can be that of a collection of a file.

    Raises:
        ArgumentError: It has other characters, or is that of other tables.
    """
    check_characters(collection)
    lower = collection.lower()
    if lower in _TABLES or lower.startswith("sqlite_") or lower.endswith(_ENDS):
        raise ArgumentError(
            f"{collection!r} cannot name a collection: it is kept for tables of the file; "
            f"do not end it with {', '.join(_ENDS)}"
        )
