"""How a collection is laid out, and how it remembers the model that filled it."""

from typing import Any

from coca.core.errors import SearchError
from coca.search.connection import Connection
from coca.search.records import (
    CAPTION,
    ID,
    MAX_BYTES,
    METADATA,
    ORIGIN,
    PATH,
    VECTOR,
    CollectionInfo,
)

_HNSW = {"M": 16, "efConstruction": 200}
# Lite forgets a collection's description but keeps its properties; servers keep both.
_FINGERPRINT, _MODEL = "coca.fingerprint", "coca.model"


def make_collection(
    connection: Connection, collection: str, *, embed_dim: int, fingerprint: str, model: str
) -> None:
    """Make an empty collection for the vectors of one model.

    Raises:
        SearchError: Milvus refuses, for instance the size.
    """
    schema = connection.client.create_schema(auto_id=False, enable_dynamic_field=False)
    types = connection.data_type
    schema.add_field(ID, types.VARCHAR, is_primary=True, max_length=MAX_BYTES[ID])
    schema.add_field(VECTOR, types.FLOAT_VECTOR, dim=embed_dim)
    schema.add_field(PATH, types.VARCHAR, max_length=MAX_BYTES[PATH])
    schema.add_field(CAPTION, types.VARCHAR, max_length=MAX_BYTES[CAPTION])
    schema.add_field(METADATA, types.JSON)
    schema.add_field(ORIGIN, types.JSON)
    with connection.faults(f"make collection {collection!r}"):
        connection.client.create_collection(
            collection,
            schema=schema,
            properties={_FINGERPRINT: fingerprint, _MODEL: model},
            timeout=connection.timeout_s,
        )


def has_collection(connection: Connection, collection: str) -> bool:
    """Whether a collection of that name is there."""
    with connection.faults("list its collections"):
        return bool(connection.client.has_collection(collection, timeout=connection.timeout_s))


def list_collections(connection: Connection) -> list[str]:
    """The names of all collections, sorted."""
    with connection.faults("list its collections"):
        return sorted(connection.client.list_collections(timeout=connection.timeout_s))


def describe_collection(connection: Connection, collection: str) -> CollectionInfo:
    """What the collection says about itself; except for its `count`.

    Raises:
        SearchError: It was not made by `make_collection`.
    """
    with connection.faults(f"describe collection {collection!r}"):
        found: dict[str, Any] = connection.client.describe_collection(
            collection, timeout=connection.timeout_s
        )
    properties = found["properties"]
    columns = {column["name"]: column for column in found["fields"]}
    if _FINGERPRINT not in properties or not {VECTOR, ORIGIN, *MAX_BYTES} <= columns.keys():
        raise SearchError(
            f"collection {collection!r} in {connection.uri} was not made by `coca index`: "
            "it does not tell which model made its vectors; use another name"
        )
    return CollectionInfo(
        uri=connection.uri,
        collection=collection,
        count=0,
        embed_dim=int(columns[VECTOR]["params"]["dim"]),
        fingerprint=properties[_FINGERPRINT],
        model=properties.get(_MODEL, ""),
        server_version=connection.server_version,
    )


def load_collection(connection: Connection, collection: str) -> None:
    """Make the collection ready to search, and finish what a killed `make_collection` left."""
    client, timeout_s = connection.client, connection.timeout_s
    with connection.faults(f"load collection {collection!r}"):
        if not client.list_indexes(collection, field_name=VECTOR, timeout=timeout_s):
            index = client.prepare_index_params()
            # Nested once more, since Lite reads the values only there; servers read both.
            index.add_index(VECTOR, index_type="HNSW", metric_type="IP", params={"params": _HNSW})
            # Lite has built it when it answers; the client would wait half a second to ask again.
            client.create_index(collection, index, timeout=timeout_s, sync=not connection.is_lite)
        client.load_collection(collection, timeout=timeout_s)
