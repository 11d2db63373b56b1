"""The collections of one place: listed, dropped, and reached by other names."""

from coca.core.errors import SearchError
from coca.search.connection import Connection
from coca.search.lite import check_folder
from coca.search.records import CollectionInfo
from coca.search.schema import (
    check_name,
    describe_collection,
    has_collection,
    list_collections,
    texts_name,
)


def check_place(uri: str, collection: str, *, token: str = "") -> CollectionInfo | None:
    """Find out in a moment, and without a model, whether a collection can be filled or made there.

    Args:
        uri: As for `Index.open`.
        collection: Its name or alias; it need not be there.
        token: As for `Index.open`.

    Returns:
        What the collection says about itself, except for its `count`; None if it is not there yet.

    Raises:
        SearchError: The name or the address is wrong, nobody answers, another process has it open,
            or the collection was not made by this package.
    """
    check_name(collection)
    if not check_folder(uri):
        return None
    connection = Connection(uri, token=token, create=False)
    try:
        if has_collection(connection, collection):
            return describe_collection(connection, collection)[0]
        return None
    finally:
        connection.close()


def drop_collection(connection: Connection, collection: str) -> None:
    """Remove a collection with everything in it, and the aliases that lead to it.

    Raises:
        SearchError: There is none of that name, or the name is an alias.
    """
    if collection not in list_collections(connection):
        target = aliases(connection).get(collection)
        raise SearchError(
            f"{collection!r} is an alias of {target!r}: drop that one"
            if target
            else f"there is no collection {collection!r} in {connection.uri}"
        )
    leading_here = [name for name, to in aliases(connection).items() if to == collection]
    client, timeout_s = connection.client, connection.timeout_s
    with connection.faults(f"drop collection {collection!r}"), connection.write_lock:
        # Otherwise they would stay, and lead nowhere.
        for name in leading_here:
            client.drop_alias(name, timeout=timeout_s)
        # The captions last: without the pictures, nobody sees them.
        for name in (collection, texts_name(collection)):
            client.drop_collection(name, timeout=timeout_s)


def aliases(connection: Connection) -> dict[str, str]:
    """Alias -> the collection that it leads to."""
    client, timeout_s = connection.client, connection.timeout_s
    with connection.faults("list its aliases"):
        return {
            alias: collection
            for collection in client.list_collections(timeout=timeout_s)
            for alias in client.list_aliases(collection, timeout=timeout_s)["aliases"]
        }


def point_alias(connection: Connection, alias: str, collection: str, *, set_aside: str) -> str:
    """Let a name lead to a collection; who opens the name from now on finds that one.

    An alias is moved in one step, so that nobody ever finds nothing. A collection of that very name
    is renamed first: only then is there a moment without.

    Args:
        connection: Where they are.
        alias: The name.
        collection: Where it shall lead.
        set_aside: New name for a collection that has the name for its own.

    Returns:
        The collection that the name led to before, or an empty text.

    Raises:
        SearchError: There is no such collection, or a name cannot be used.
    """
    check_name(alias)
    names = list_collections(connection)
    if collection not in names:
        raise SearchError(f"there is no collection {collection!r} in {connection.uri}")
    if alias == collection:
        raise SearchError(f"{alias!r} is the collection itself; an alias needs another name")
    before = aliases(connection).get(alias, "")
    client, timeout_s = connection.client, connection.timeout_s
    with connection.write_lock:
        if alias in names:
            before = set_aside
            _rename(connection, alias, set_aside)
        with connection.faults(f"let {alias!r} lead to {collection!r}"):
            move = client.alter_alias if before and alias not in names else client.create_alias
            move(collection, alias, timeout=timeout_s)
    return before


def _rename(connection: Connection, old: str, new: str) -> None:
    check_name(new)
    if has_collection(connection, new):
        raise SearchError(
            f"{old!r} would be set aside as {new!r}, which is there already: drop that one first"
        )
    with connection.faults(f"rename {old!r} to {new!r}"):
        # The captions first: under the old name the pictures still tell what is wanted.
        if has_collection(connection, texts_name(old)):
            connection.client.rename_collection(
                texts_name(old), texts_name(new), timeout=connection.timeout_s
            )
        connection.client.rename_collection(old, new, timeout=connection.timeout_s)
