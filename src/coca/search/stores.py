"""Open the store of a URI: a path is a SQLite file, an address is a Milvus server.

`pictures.db` is one SQLite file. `http://host:19530`, `https://`, `tcp://` and `unix:` are a
server, a cluster or Zilliz Cloud, and `milvus-lite:PATH` is Milvus Lite as Milvus ships it.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coca.core.errors import ArgumentError, SearchError
from coca.search.records import check_same_model
from coca.search.store import Collection, Store, check_characters, default_collection

ADDRESSES = ("http://", "https://", "tcp://", "unix:", "milvus-lite:")
"""Beginnings of the URIs of Milvus; any other URI is the path of a SQLite file."""

_HOST = re.compile(r"[\w.-]+:\d+/?")
"""An address without `http://`."""


def is_file(uri: str) -> bool:
    """Return whether a URI is the path of a SQLite file."""
    return not uri.startswith(ADDRESSES)


def checked_uri(uri: str | Path) -> str:
    """Return a URI as text.

    Raises:
        ArgumentError: It is of another type.
    """
    if not isinstance(uri, str | Path):
        raise ArgumentError(
            "uri must be the path of a SQLite file or an address of Milvus, got "
            f"{type(uri).__name__}"
        )
    return os.fspath(uri)


def open_store(
    uri: str | Path, *, token: str = "", create: bool = False, timeout_s: float = 60.0
) -> Store:
    """Open a store.

    Args:
        uri: Path of a SQLite file, or address of Milvus.
        token: `"user:password"` or an API key, for servers with authentication.
        create: Create the file if it is missing.
        timeout_s: Timeout of each call of a server, and of waiting for another writer of a file, in
            seconds.

    Raises:
        SearchError: It is missing, unreachable, or no store.
        MissingExtraError: The package of Milvus is not installed.
    """
    uri = checked_uri(uri)
    if is_file(uri):
        if _HOST.fullmatch(uri) or "://" in uri:
            raise SearchError(
                f"{uri!r} is neither the path of a SQLite file nor an address of Milvus, which "
                f"begins with one of {', '.join(ADDRESSES)}, such as http://localhost:19530"
            )
        from coca.search.sqlite.store import SqliteStore

        return SqliteStore(uri, create=create, timeout_s=timeout_s)
    from coca.search.milvus.store import MilvusStore

    return MilvusStore(uri, token=token, timeout_s=timeout_s)


def check_name(uri: str, collection: str) -> None:
    """Check the name of a new collection before a model is loaded for it.

    Raises:
        ArgumentError: It cannot name a collection.
    """
    check_characters(collection)
    if is_file(uri):
        from coca.search.sqlite.store import check_name as check_tables

        check_tables(collection)


def open_or_create(
    store: Store,
    collection: str,
    *,
    embed_dim: int,
    fingerprint: str,
    model: str,
    settings: Any = None,
) -> Collection:
    """Open a collection, or create it, see `Store.create`; another process may create it first.

    Raises:
        SearchError: It cannot be created, or has another model's vectors.
    """
    if not store.has(collection):
        try:
            return store.create(
                collection,
                embed_dim=embed_dim,
                fingerprint=fingerprint,
                model=model,
                settings=settings,
            )
        except SearchError:
            if not store.has(collection):
                raise
    opened = store.open(collection)
    check_same_model(opened.info, fingerprint=fingerprint, embed_dim=embed_dim)
    return opened


@contextmanager
def open_collection(
    uri: str,
    collection: str | None = None,
    *,
    token: str = "",
    embed_dim: int | None = None,
    fingerprint: str | None = None,
    model: str = "",
    create: bool = False,
    settings: Any = None,
) -> Iterator[Collection]:
    """Open a collection of a store, or create it, and close the store at the end.

    Args:
        uri: Path of a SQLite file, or address of Milvus, see `open_store`.
        collection: Name: letters, digits and `_`; default: see `default_collection`.
        token: `"user:password"` or an API key, for servers with authentication.
        embed_dim: Vector size; required to create a collection, otherwise checked if given.
        fingerprint: Fingerprint of the model of its vectors; as `embed_dim`.
        model: Name or folder of that model, stored with a new collection.
        create: Create the store and the collection if they are missing.
        settings: `CollectionSettings` of a new collection of Milvus.

    Raises:
        SearchError: It is missing, unreachable, or has another model's vectors.
    """
    with open_store(uri, token=token, create=create) as store:
        if collection is None:
            collection = default_collection(store)
        if create and not store.has(collection):
            if embed_dim is None or not fingerprint:
                raise SearchError(
                    f"to make collection {collection!r} in {uri}, name embed_dim and fingerprint "
                    "of the model that will fill it"
                )
            opened = open_or_create(
                store,
                collection,
                embed_dim=embed_dim,
                fingerprint=fingerprint,
                model=model,
                settings=settings,
            )
        else:
            opened = store.open(collection)
        info = opened.info
        check_same_model(
            info,
            fingerprint=fingerprint or info.fingerprint,
            embed_dim=embed_dim or info.embed_dim,
        )
        yield opened
