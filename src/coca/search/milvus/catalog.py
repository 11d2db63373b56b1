"""The collections of one place: made, listed, dropped, and reached by other names."""

from contextlib import suppress
from dataclasses import dataclass, replace

from coca.core.errors import SearchError
from coca.search.milvus import names
from coca.search.milvus.collection_config import CollectionSettings
from coca.search.milvus.collection_io import CollectionIO
from coca.search.milvus.connection import Connection
from coca.search.milvus.lite import check_folder
from coca.search.milvus.names import aliases
from coca.search.milvus.schema import (
    FINGERPRINT,
    check_name,
    describe,
    describe_collection,
    list_collections,
    load_collection,
    make_collection,
    model_in,
    texts_name,
)
from coca.search.records import CollectionInfo


def check_place(uri: str, collection: str, *, token: str = "") -> CollectionInfo | None:
    """Find out in a moment, and without a model, whether a collection can be filled or made there.

    Args:
        uri: As for `Collection.open`.
        collection: Its name or alias; it need not be there.
        token: As for `Collection.open`.

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
        if (own := names.resolve(connection, collection)) is not None:
            return replace(describe_collection(connection, own)[0], collection=collection)
        return None
    finally:
        connection.close()


def neighbours(uri: str, *, token: str = "") -> list[CollectionInfo]:
    """What the collections of a place say about themselves, except for their `count`.

    Those that were not made by this package are left out.

    Args:
        uri: As for `Collection.open`.
        token: As for `Collection.open`.

    Raises:
        SearchError: The address is wrong, nobody answers, or another process has it open.
    """
    if not check_folder(uri):
        return []
    connection = Connection(uri, token=token, create=False)
    found = []
    try:
        for name in list_collections(connection):
            with suppress(SearchError):
                info, _ = describe_collection(connection, name)
                public = names.made_for(describe(connection, name))
                found.append(replace(info, collection=public or name))
    finally:
        connection.close()
    return found


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A collection in the list of a place."""

    name: str
    """The name to open it by: the public one if that leads here, else its own."""
    own_name: str
    count: int
    """Records; as far as Milvus knows without loading it, see `exact`."""
    exact: bool
    """`count` was counted. Otherwise a server may count replaced and removed rows as well."""
    model: str
    """Name or folder of its model; empty if the collection was not made by this package."""
    aliases: tuple[str, ...]
    """Its other names."""


def list_all(connection: Connection) -> list[Listed]:
    """List the collections of a place; none is loaded, and no index is built."""
    client, timeout_s = connection.client, connection.timeout_s
    others = aliases(connection)
    found = []
    for own in list_collections(connection):
        about = describe(connection, own)
        leading = {alias for alias, target in others.items() if target == own}
        public = names.made_for(about)
        name = public if public in leading else own
        with connection.faults(f"count the records of {own!r}"):
            state = client.get_load_state(own, timeout=timeout_s)["state"]
            exact = connection.is_lite or str(getattr(state, "name", state)) == "Loaded"
            count = (
                CollectionIO(connection, own).count()
                if exact and not connection.is_lite
                else int(client.get_collection_stats(own, timeout=timeout_s)["row_count"])
            )
        found.append(
            Listed(
                name=name,
                own_name=own,
                count=count,
                exact=exact,
                model=model_in(about),
                aliases=tuple(sorted(leading - {name})),
            )
        )
    return found


def missing(connection: Connection, collection: str) -> str:
    """Explain that there is no collection of a name."""
    others = aliases(connection)
    there = ", ".join(sorted({*others, *list_collections(connection)} - set(others.values())))
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
    settings: CollectionSettings,
    staged: bool,
) -> str:
    """Make the collection of a model for a name, and let the name lead to it unless `staged`.

    A process that is killed in between leaves an empty collection, which the next one takes.

    Returns:
        Its own name.

    Raises:
        SearchError: Milvus refuses, or there are records of that model and name already, to which
            the name does not lead any more.
    """
    own = names.own_name(collection, fingerprint)
    if names.resolve(connection, own) is None:
        make_collection(
            connection,
            own,
            embed_dim=embed_dim,
            fingerprint=fingerprint,
            model=model,
            settings=settings,
            made_for=collection,
        )
    elif not staged:
        layout = describe_collection(connection, own)[1]
        load_collection(connection, layout)
        if count := CollectionIO(connection, own).count():
            raise SearchError(
                f"{collection!r} leads nowhere, but {own!r} in {connection.uri} holds {count:,} "
                f"records of this model: `coca collection alias {collection} {own}` opens them, "
                f"`coca collection drop {own}` removes them"
            )
    return own if staged else names.create_alias(connection, collection, own)


def drop_collection(connection: Connection, collection: str) -> str:
    """Remove a collection with everything in it, and the names that lead to it.

    Args:
        connection: Where it is.
        collection: Its own name, or the public name that it was made for. Of a collection of an
            earlier version whose name leads elsewhere, the records go, and the name stays.

    Returns:
        Its own name.

    Raises:
        SearchError: There is none of that name, or the name is an alias that it was not made for.
    """
    others, own = aliases(connection), collection
    stays = others.get(collection)
    if collection not in list_collections(connection):
        if stays is None:
            raise SearchError(f"there is no collection {collection!r} in {connection.uri}")
        own, stays = stays, None
        if names.made_for(describe(connection, own)) != collection:
            raise SearchError(f"{collection!r} is an alias of {own!r}: drop that one")
    client, timeout_s = connection.client, connection.timeout_s
    with connection.faults(f"drop collection {own!r}"), connection.write_lock:
        # Otherwise they would stay, and lead nowhere.
        for name in (name for name, target in others.items() if target == own):
            if name in client.list_collections(timeout=timeout_s):
                names.redirect(connection, name, "")
            else:
                client.drop_alias(name, timeout=timeout_s)
        # The captions last: without the images, nobody sees them.
        for name in (own, texts_name(own)):
            client.drop_collection(name, timeout=timeout_s)
        if stays is not None:
            client.create_alias(stays, collection, timeout=timeout_s)
    return own


def point_alias(connection: Connection, alias: str, collection: str) -> str:
    """Let a name lead to a collection; who opens the name from now on finds that one.

    One call, so nobody ever finds nothing. Who has the former collection open keeps it.

    Args:
        connection: Where they are.
        alias: The name.
        collection: The collection: its own name, or one that leads to it now.

    Returns:
        The own name of the collection that the name led to before, or an empty text.

    Raises:
        SearchError: There is no such collection, or a name cannot be used.
    """
    check_name(alias)
    with connection.write_lock:
        others, there = aliases(connection), list_collections(connection)
        target = collection if collection in there else others.get(collection)
        if target is None:
            raise SearchError(f"there is no collection {collection!r} in {connection.uri}")
        before = others.get(alias, alias if alias in there else "")
        if alias in there:
            check_switchable(connection, alias)
            if target == before:
                raise SearchError(
                    f"{alias!r} is the collection itself; an alias needs another name"
                )
            names.redirect(connection, alias, "" if target == alias else target)
        elif before:
            with connection.faults(f"let {alias!r} lead to {target!r}"):
                connection.client.alter_alias(target, alias, timeout=connection.timeout_s)
        else:
            names.create_alias(connection, alias, target)
    return before


def check_switchable(connection: Connection, name: str) -> None:
    """Refuse a name that can never lead to another collection.

    Raises:
        SearchError: It is the own name of a collection.
    """
    if name not in list_collections(connection):
        return
    about = describe(connection, name)
    public = names.made_for(about)
    if public:
        raise SearchError(
            f"{name!r} is a collection's own name, which leads nowhere else; "
            f"{public!r} is the name that can"
        )
    if FINGERPRINT not in about["properties"]:
        raise SearchError(f"{name!r} is a collection that was not made by coca; use another name")
