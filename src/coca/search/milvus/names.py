"""Collection names: each collection keeps a name of its own, and aliases lead to it.

A collection made for the name `pictures` is called `pictures_1a2b3c4d` after its model, and
`pictures` is an alias. The own name never changes and never leads elsewhere, so whoever has the
collection open reads and writes that collection, wherever the alias is switched meanwhile.

Collections of earlier versions have the public name for their own. Milvus allows no alias of that
name, and renaming would take the name from under open readers and writers. So such a collection
stays, and a property in it redirects the name: one call, before or after which a process may die.
"""

import hashlib
from typing import Any

from coca.core.errors import SearchError
from coca.search.milvus import schema
from coca.search.milvus.connection import Connection
from coca.search.records import same_model

_MAX_NAME = 255
"""Longest name that Milvus takes."""


def own_name(collection: str, fingerprint: str) -> str:
    """Return the own name of a collection that is made for a public name and a model.

    Raises:
        SearchError: The public name is too long.
    """
    model = hashlib.sha256(fingerprint.encode()).hexdigest()[:8]
    name = f"{collection}_{model}"
    if (over := len(schema.texts_name(name)) - _MAX_NAME) > 0:
        raise SearchError(
            f"{collection!r} cannot name a new collection: it has {len(collection)} characters, "
            f"and at most {len(collection) - over} are allowed"
        )
    return name


def resolve(connection: Connection, collection: str) -> str | None:
    """Return the own name of the collection that a name leads to; None if it leads nowhere.

    Raises:
        SearchError: It leads to a collection that is gone.
    """
    if not schema.has_collection(connection, collection):
        return None
    found = schema.describe(connection, collection)
    target = found["properties"].get(schema.LEADS_TO)
    if not target:
        return str(found["collection_name"])
    if not schema.has_collection(connection, target):
        raise SearchError(
            f"{collection!r} in {connection.uri} leads to {target!r}, which is gone: "
            f"`coca collection alias {collection} {collection}` lets it lead to its own records"
        )
    return str(target)


def resolve_staged(connection: Connection, collection: str, fingerprint: str) -> str | None:
    """Return the collection of a model that is made for a name, wherever the name leads now.

    Also those that earlier versions made, under the names that these gave them.
    """
    there = schema.list_collections(connection)
    for name in (collection, f"{collection}_{fingerprint[:8]}", own_name(collection, fingerprint)):
        if name in there:
            theirs = schema.describe(connection, name)["properties"].get(schema.FINGERPRINT, "")
            if same_model(theirs, fingerprint):
                return name
    return None


def aliases(connection: Connection) -> dict[str, str]:
    """Return every other name of the collections of a place: name -> own name."""
    client, timeout_s = connection.client, connection.timeout_s
    found: dict[str, str] = {}
    with connection.faults("list its aliases"):
        for collection in client.list_collections(timeout=timeout_s):
            listed = client.list_aliases(collection, timeout=timeout_s)["aliases"]
            found |= dict.fromkeys(listed, collection)
            if target := schema.describe(connection, collection)["properties"].get(schema.LEADS_TO):
                found[collection] = target
    return found


def create_alias(connection: Connection, alias: str, own: str) -> str:
    """Let a new name lead to a collection; return where it leads, if another process was faster."""
    try:
        with connection.faults(f"let {alias!r} lead to {own!r}"):
            connection.client.create_alias(own, alias, timeout=connection.timeout_s)
    except SearchError:
        if (faster := resolve(connection, alias)) is None:
            raise
        return faster
    return own


def redirect(connection: Connection, collection: str, target: str) -> None:
    """Let the name of a collection of an earlier version lead elsewhere; "" ends that."""
    with connection.faults(f"let {collection!r} lead to {target!r}"):
        connection.client.alter_collection_properties(
            collection, properties={schema.LEADS_TO: target}, timeout=connection.timeout_s
        )


def made_for(found: dict[str, Any]) -> str:
    """Return the public name that a described collection was made for; "" of earlier versions."""
    return str(found["properties"].get(schema.MADE_FOR, ""))
