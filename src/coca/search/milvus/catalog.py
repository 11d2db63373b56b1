"""Catalog of collections: create, list, drop, and alias.

A collection created as `pictures` has the own name `pictures_1a2b3c4d`, after its model, and the
alias `pictures`. The own name never changes. So open clients keep their collection while the alias
is switched.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from coca.core.errors import SearchError
from coca.search.milvus import schema
from coca.search.milvus.connection import Connection
from coca.search.milvus.lite import check_folder
from coca.search.milvus.rows import Rows
from coca.search.records import CollectionInfo

# Collection names and aliases: each collection has an immutable own name; aliases point to it.


_MAX_NAME = 255
"""Maximum length of a name in Milvus."""


def own_name(collection: str, fingerprint: str) -> str:
    """Compute the own name of a collection from its public name and its model."""
    model = hashlib.sha256(fingerprint.encode()).hexdigest()[:8]
    name = f"{collection}_{model}"
    if (over := len(schema.texts_name(name)) - _MAX_NAME) > 0:
        raise SearchError(
            f"{collection!r} cannot name a new collection: it has {len(collection)} characters, "
            f"and at most {len(collection) - over} are allowed"
        )
    return name


def resolve(connection: Connection, collection: str) -> str | None:
    """Resolve a name to the own name of its collection; None if it points nowhere."""
    if not schema.has_collection(connection, collection):
        return None
    return str(schema.describe(connection, collection)["collection_name"])


def resolve_staged(connection: Connection, collection: str, fingerprint: str) -> str | None:
    """Find the collection created for a name and a model, wherever the alias points."""
    own = own_name(collection, fingerprint)
    return own if own in schema.list_collections(connection) else None


def aliases(connection: Connection) -> dict[str, str]:
    """List the aliases of a Milvus instance: alias -> own name."""
    client, timeout_s = connection.client, connection.timeout_s
    found: dict[str, str] = {}
    with connection.faults("list its aliases"):
        for collection in client.list_collections(timeout=timeout_s):
            listed = client.list_aliases(collection, timeout=timeout_s)["aliases"]
            found |= dict.fromkeys(listed, collection)
    return found


def create_alias(connection: Connection, alias: str, own: str) -> str:
    """Create an alias; return the existing target if another process was faster."""
    try:
        with connection.faults(f"let {alias!r} lead to {own!r}"):
            connection.client.create_alias(own, alias, timeout=connection.timeout_s)
    except SearchError:
        if (faster := resolve(connection, alias)) is None:
            raise
        return faster
    return own


def made_for(found: dict[str, Any]) -> str:
    """Return the public name that a collection of this package was created for; else empty."""
    return str(found["properties"].get(schema.MADE_FOR, ""))


def check_fillable(uri: str, collection: str, *, token: str = "") -> CollectionInfo | None:
    """Check quickly, without a model, whether a collection can be written or created.

    Returns:
        The description of the collection, without `count`; None if it does not exist yet.
    """
    schema.check_name(collection)
    if not check_folder(uri):
        return None
    with Connection(uri, token=token, create=False) as connection:
        if (own := resolve(connection, collection)) is None:
            return None
        return replace(schema.describe_collection(connection, own)[0], collection=collection)


def neighbours(uri: str, *, token: str = "") -> list[CollectionInfo]:
    """Describe all collections of a Milvus instance, without their `count`.

    Collections that this package did not create are skipped.
    """
    if not check_folder(uri):
        return []
    found = []
    with Connection(uri, token=token, create=False) as connection:
        for name in schema.list_collections(connection):
            with suppress(SearchError):
                info, layout = schema.describe_collection(connection, name)
                found.append(replace(info, collection=layout.made_for))
    return found


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Entry in the list of collections."""

    name: str
    """Name to open it by: the public name if that points to it, else its own name."""
    own_name: str
    count: int
    """Number of records, as far as Milvus knows without loading it; see `exact`."""
    exact: bool
    """Whether `count` is exact. Otherwise a server may include replaced and deleted rows."""
    model: str
    """Name or folder of its model; empty if this package did not create the collection."""
    aliases: tuple[str, ...]
    """Other names of the collection."""


def list_all(connection: Connection) -> list[Listed]:
    """List all collections without loading them or building an index."""
    client, timeout_s = connection.client, connection.timeout_s
    others = aliases(connection)
    found = []
    for own in schema.list_collections(connection):
        about = schema.describe(connection, own)
        leading = {alias for alias, target in others.items() if target == own}
        public = made_for(about)
        name = public if public in leading else own
        with connection.faults(f"count the records of {own!r}"):
            state = client.get_load_state(own, timeout=timeout_s)["state"]
            exact = connection.is_lite or str(getattr(state, "name", state)) == "Loaded"
            count = (
                Rows(connection, own).count()
                if exact and not connection.is_lite
                else int(client.get_collection_stats(own, timeout=timeout_s)["row_count"])
            )
        found.append(
            Listed(
                name=name,
                own_name=own,
                count=count,
                exact=exact,
                model=schema.model_in(about),
                aliases=tuple(sorted(leading - {name})),
            )
        )
    return found


def missing(connection: Connection, collection: str) -> str:
    """Build the error message for a missing collection."""
    others = aliases(connection)
    there = ", ".join(
        sorted({*others, *schema.list_collections(connection)} - set(others.values()))
    )
    return (
        f"there is no collection {collection!r} in {connection.uri} "
        f"({f'there are: {there}' if there else 'it is empty'}); "
        "`coca index FOLDER` makes one"
    )


def make_named(
    connection: Connection,
    collection: str,
    *,
    embed_dim: int,
    fingerprint: str,
    model: str,
    settings: schema.CollectionSettings,
    staged: bool,
) -> str:
    """Create the collection of a model for a name, and its alias unless `staged`.

    A process killed in between leaves an empty collection, which the next process uses.

    Returns:
        The own name of the collection.
    """
    own = own_name(collection, fingerprint)
    if resolve(connection, own) is None:
        schema.make_collection(
            connection,
            own,
            embed_dim=embed_dim,
            fingerprint=fingerprint,
            model=model,
            settings=settings,
            made_for=collection,
        )
    elif not staged:
        layout = schema.describe_collection(connection, own)[1]
        schema.load_collection(connection, layout)
        if count := Rows(connection, own).count():
            raise SearchError(
                f"{collection!r} leads nowhere, but {own!r} in {connection.uri} contains {count:,} "
                f"records of this model: `coca collection alias {collection} {own}` opens them, "
                f"`coca collection drop {own}` removes them"
            )
    return own if staged else create_alias(connection, collection, own)


def drop_collection(connection: Connection, collection: str) -> str:
    """Drop a collection with its records and aliases.

    Returns:
        The own name of the collection.
    """
    others, own = aliases(connection), collection
    if collection not in schema.list_collections(connection):
        if collection not in others:
            raise SearchError(f"there is no collection {collection!r} in {connection.uri}")
        own = others[collection]
        if made_for(schema.describe(connection, own)) != collection:
            raise SearchError(f"{collection!r} is an alias of {own!r}: drop that one")
    client, timeout_s = connection.client, connection.timeout_s
    with connection.faults(f"drop collection {own!r}"), connection.write_lock:
        # Otherwise they would remain and point nowhere.
        for name in (name for name, target in others.items() if target == own):
            client.drop_alias(name, timeout=timeout_s)
        # The captions last: without the images, they are invisible.
        for name in (own, schema.texts_name(own)):
            client.drop_collection(name, timeout=timeout_s)
    return own


def point_alias(connection: Connection, alias: str, collection: str) -> str:
    """Point an alias to a collection, atomically.

    The switch is one call, so the alias always resolves. Open clients keep the previous collection.

    Returns:
        The own name of the previous target, or an empty text.
    """
    schema.check_name(alias)
    with connection.write_lock:
        others, there = aliases(connection), schema.list_collections(connection)
        target = collection if collection in there else others.get(collection)
        if target is None:
            raise SearchError(f"there is no collection {collection!r} in {connection.uri}")
        check_switchable(connection, alias)
        before = others.get(alias, "")
        if before:
            with connection.faults(f"let {alias!r} lead to {target!r}"):
                connection.client.alter_alias(target, alias, timeout=connection.timeout_s)
        else:
            create_alias(connection, alias, target)
    return before


def check_switchable(connection: Connection, name: str) -> None:
    """Check that a name can be switched to another collection."""
    if name not in schema.list_collections(connection):
        return
    if public := made_for(schema.describe(connection, name)):
        raise SearchError(
            f"{name!r} is a collection's own name, which leads nowhere else; "
            f"{public!r} is the name that can"
        )
    raise SearchError(f"{name!r} is a collection that was not made by coca; use another name")
