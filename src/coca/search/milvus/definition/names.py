"""Collection names and aliases: each collection has an immutable own name; aliases point to it.

A collection created as `pictures` has the own name `pictures_1a2b3c4d`, after its model, and the
alias `pictures`. The own name never changes. So open clients keep their collection while the alias
is switched.

Collections of earlier versions have the public name as own name. Milvus allows no alias of that
name, and renaming would break open clients. So such a collection stays, and a property in it
redirects the name. That is one atomic call, safe if the process dies.
"""

import hashlib
from typing import Any

from coca.core.errors import SearchError
from coca.search.milvus.client.connection import Connection
from coca.search.milvus.definition import schema
from coca.search.records import same_model

_MAX_NAME = 255
"""Maximum length of a name in Milvus."""


def own_name(collection: str, fingerprint: str) -> str:
    """Compute the own name of a collection from its public name and its model.

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
    """Resolve a name to the own name of its collection; None if it points nowhere.

    Raises:
        SearchError: It points to a collection that no longer exists.
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
    """Find the collection created for a name and a model, wherever the alias points.

    Includes collections of earlier versions, under their names.
    """
    there = schema.list_collections(connection)
    for name in (collection, f"{collection}_{fingerprint[:8]}", own_name(collection, fingerprint)):
        if name in there:
            theirs = schema.describe(connection, name)["properties"].get(schema.FINGERPRINT, "")
            if same_model(theirs, fingerprint):
                return name
    return None


def aliases(connection: Connection) -> dict[str, str]:
    """List the aliases and redirects of a Milvus instance: name -> own name."""
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
    """Create an alias; return the existing target if another process was faster."""
    try:
        with connection.faults(f"let {alias!r} lead to {own!r}"):
            connection.client.create_alias(own, alias, timeout=connection.timeout_s)
    except SearchError:
        if (faster := resolve(connection, alias)) is None:
            raise
        return faster
    return own


def redirect(connection: Connection, collection: str, target: str) -> None:
    """Redirect the name of a collection of an earlier version; "" removes the redirect."""
    with connection.faults(f"let {collection!r} lead to {target!r}"):
        connection.client.alter_collection_properties(
            collection, properties={schema.LEADS_TO: target}, timeout=connection.timeout_s
        )


def made_for(found: dict[str, Any]) -> str:
    """Return the public name a described collection was created for; "" for earlier versions."""
    return str(found["properties"].get(schema.MADE_FOR, ""))
