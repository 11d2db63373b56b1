"""Store of collections in Milvus.

The name of a collection is an alias of one with a name of its own, such as `pictures_1a2b3c4d`. So
another collection takes the name by one call, and each search finds the former records or the new
ones.
"""

import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from coca.core.errors import SearchError
from coca.search.milvus import schema
from coca.search.milvus.collection import MilvusCollection
from coca.search.milvus.connection import Connection
from coca.search.milvus.rows import Rows
from coca.search.milvus.schema import CollectionSettings
from coca.search.milvus.turns import TurnLostError, last_write, note_write, take_turn
from coca.search.records import CollectionInfo
from coca.search.store import (
    Store,
    check_characters,
    default_collection,
    is_name,
    missing_collection,
)

logger = logging.getLogger(__name__)


class MilvusStore(Store):
    """Store of Milvus; see `coca.search.store.Store`.

    Attributes:
        uri: Address as it was given.
        product: Name and version, such as `Milvus 2.6.4`.
        capabilities: Features of the connected Milvus.
    """

    def __init__(self, uri: str, *, token: str = "", timeout_s: float = 60.0) -> None:
        """Connect to Milvus.

        Args:
            uri: Address of a server, a cluster or Zilliz Cloud: `http://host:19530`, `https://`,
                `tcp://`, `unix:`; or `milvus-lite:PATH`, where PATH ends in `.db`.
            token: `"user:password"` or an API key, for servers with authentication.
            timeout_s: Timeout of each call, in seconds.

        Raises:
            SearchError: No Milvus answers, or it is older than 2.3.
            MissingExtraError: The package of Milvus is not installed.
        """
        self._connection = Connection(uri, token=token, timeout_s=timeout_s)
        self.uri, self.capabilities = uri, self._connection.capabilities
        self.product = self.capabilities.product
        self._warned = False

    def list(self) -> Sequence[CollectionInfo]:
        """Describe all collections of this package, sorted by name, without loading them.

        The count of a collection that is not loaded may include replaced and deleted records. A
        collection without an alias, which a killed process leaves, is listed by its own name.
        """
        listed = []
        for own_name in self._connection.call("list_collections"):
            # Collections of other programs are left out.
            with suppress(SearchError):
                info, layout = schema.describe_collection(self._connection, own_name)
                count = Rows(self._connection, layout).stored()
                names = self._aliases(own_name) or [own_name]
                listed += [replace(info, collection=name, count=count) for name in names]
        return sorted(listed, key=lambda info: info.collection)

    def create(
        self,
        collection: str,
        *,
        embed_dim: int,
        fingerprint: str,
        model: str = "",
        settings: CollectionSettings | None = None,
    ) -> MilvusCollection:
        """Create an empty collection, and open it; see `Store.create`."""
        check_characters(collection)
        if self.has(collection):
            raise SearchError(f"there is a collection {collection!r} in {self.uri} already")
        own_name = f"{collection}_{secrets.token_hex(4)}"
        schema.make_collection(
            self._connection,
            own_name,
            embed_dim=embed_dim,
            fingerprint=fingerprint,
            model=model,
            settings=settings or CollectionSettings(),
        )
        try:
            self._connection.call("create_alias", own_name, collection)
        except SearchError:
            # Another client was faster.
            self._drop(own_name)
            raise
        return self.open(collection)

    def open(self, collection: str | None = None) -> MilvusCollection:
        """Open a collection, and load it for searches; see `Store.open`."""
        if collection is None:
            collection = default_collection(self)
        self._own_name(collection)
        opened = MilvusCollection(self._connection, collection)
        if not opened.has_words and not self._warned:
            self._warned = True
            logger.warning(
                "%s at %s has no BM25, so searches do not look up words: Milvus 2.5 or newer, or a "
                "SQLite file, does",
                self.product,
                self.uri,
            )
        return opened

    def has(self, collection: str) -> bool:
        """Return whether there is a collection of that name."""
        return is_name(collection) and bool(self._connection.call("has_collection", collection))

    def drop(self, collection: str) -> None:
        """Delete a collection with all its records.

        Raises:
            SearchError: There is none, or another program created it.
        """
        self._drop(self._own_name(collection))

    def promote(
        self, staged: str, collection: str, *, is_ready: Callable[[], bool] = lambda: True
    ) -> bool:
        """Let the collection `staged` take the name `collection`; see `Store.promote`.

        A process that is killed meanwhile leaves one of both under a name of its own, see `list`.
        """
        check_characters(collection)
        taking = self._own_name(staged)
        former = self._own_name(collection) if self.has(collection) else ""
        if taking == former:
            return True
        if not former:
            if not is_ready():
                return False
            self._wait_for_rows(taking)
            # Before the other call, so that no collection ever has two names.
            self._drop_aliases(taking)
            self._connection.call("create_alias", taking, collection)
            return True
        # Other clients wait for the end of the turn, and then find the other collection.
        with take_turn(self._connection, former) as turn:
            if not is_ready():
                return False
            self._wait_for_rows(taking)
            try:
                turn.check()
            except TurnLostError:
                return False
            layout = schema.describe_collection(self._connection, taking)[1]
            for name, search in schema.saved_searches(self._connection, former).items():
                schema.keep_property(self._connection, layout, schema.SEARCH + name, search)
            last = max(turn.number, last_write(self._connection, taking))
            note_write(self._connection, taking, last + 1)
            self._drop_aliases(taking)
            self._connection.call("alter_alias", taking, collection)
            self._drop(former)
            turn.dropped = True
        return True

    def close(self) -> None:
        """Close the connection; closing twice does nothing."""
        self._connection.close()

    def _wait_for_rows(self, own_name: str) -> None:
        """Wait until searches with bounded staleness find all rows."""
        self._connection.call(
            "query", own_name, output_fields=["count(*)"], consistency_level="Strong"
        )

    def _drop(self, own_name: str) -> None:
        """Drop a collection with its aliases, which would otherwise point nowhere."""
        self._drop_aliases(own_name)
        self._connection.call("drop_collection", own_name)

    def _drop_aliases(self, own_name: str) -> None:
        for alias in self._aliases(own_name):
            self._connection.call("drop_alias", alias)

    def _aliases(self, own_name: str) -> Sequence[str]:
        return sorted(self._connection.call("list_aliases", own_name)["aliases"])

    def _own_name(self, collection: str) -> str:
        if not self.has(collection):
            names = [info.collection for info in self.list()]
            raise missing_collection(self.uri, collection, names)
        return schema.describe_collection(self._connection, collection)[1].own_name
