"""How a collection is laid out, and how it remembers the model that filled it.

A picture is one row. Its caption's vector stands in the same row where Milvus takes two columns of
vectors; otherwise in a second collection, `NAME_texts`, whose rows carry the same columns.
"""

import re
from dataclasses import dataclass
from typing import Any

from coca.core.errors import SearchError
from coca.search import records
from coca.search.connection import Connection
from coca.search.records import MAX_BYTES, CollectionInfo

WORDS = "words"
"""Column that Milvus fills with the words of the caption, where it can rank by them."""

_HNSW = {"M": 16, "efConstruction": 200}
# Lite forgets a collection's description but keeps its properties; servers keep both.
_FINGERPRINT, _MODEL, _LAYOUT = "coca.fingerprint", "coca.model", "coca.layout"
_NEWEST = "2"
_TEXTS = "_texts"


@dataclass(frozen=True)
class Layout:
    """Where the parts of a collection stand."""

    name: str
    """The collection's own name, whatever alias it was opened by."""
    texts: str
    """The collection with the vectors of captions: itself, or the second one."""
    text_column: str
    """The column of these vectors in there."""
    words: bool
    """It has a column of words."""

    @property
    def shared(self) -> bool:
        """Both vectors stand in one row."""
        return self.texts == self.name


def check_name(collection: str) -> None:
    """Refuse a name that Milvus would refuse, or that is taken for the vectors of captions.

    Raises:
        SearchError: It is such a name.
    """
    if not re.fullmatch(r"[A-Za-z_]\w{0,247}", collection, re.ASCII):
        raise SearchError(
            f"{collection!r} cannot name a collection: use letters, digits and _, "
            "and begin with a letter or _"
        )
    if collection.endswith(_TEXTS):
        raise SearchError(
            f"{collection!r} cannot name a collection: "
            f"{_TEXTS} at the end is kept for the captions of another one"
        )


def make_collection(
    connection: Connection, collection: str, *, embed_dim: int, fingerprint: str, model: str
) -> None:
    """Make an empty collection for the vectors of one model.

    Raises:
        SearchError: Milvus refuses, for instance the size.
    """
    properties = {_FINGERPRINT: fingerprint, _MODEL: model, _LAYOUT: _NEWEST}
    several = connection.capabilities.several_vectors
    # The one that is asked for comes last: what a killed process leaves is never half a collection.
    if not several:
        _drop_leftover(connection, _texts_name(collection))
        _make(connection, _texts_name(collection), embed_dim, properties, [records.VECTOR])
    vectors = [records.VECTOR, records.TEXT_VECTOR] if several else [records.VECTOR]
    _make(connection, collection, embed_dim, properties, vectors)


def has_collection(connection: Connection, collection: str) -> bool:
    """Whether a collection or alias of that name is there."""
    with connection.faults("list its collections"):
        return bool(connection.client.has_collection(collection, timeout=connection.timeout_s))


def list_collections(connection: Connection) -> list[str]:
    """The names of all collections, sorted, without the second ones."""
    with connection.faults("list its collections"):
        names = set(connection.client.list_collections(timeout=connection.timeout_s))
    return sorted(names - {_texts_name(name) for name in names})


def drop_collection(connection: Connection, collection: str) -> None:
    """Remove a collection with everything in it; one that is not there is ignored."""
    with connection.faults(f"drop collection {collection!r}"), connection.write_lock:
        # The second one last: without the first, nobody sees it.
        for name in (collection, _texts_name(collection)):
            connection.client.drop_collection(name, timeout=connection.timeout_s)


def describe_collection(connection: Connection, collection: str) -> tuple[CollectionInfo, Layout]:
    """What the collection says about itself, except for its `count`; and where its parts stand.

    Raises:
        SearchError: It was not made by `make_collection`, or by an older version of it.
    """
    with connection.faults(f"describe collection {collection!r}"):
        found: dict[str, Any] = connection.client.describe_collection(
            collection, timeout=connection.timeout_s
        )
    properties = found["properties"]
    columns = {column["name"]: column for column in found["fields"]}
    if _FINGERPRINT not in properties or records.ORIGIN not in columns:
        raise SearchError(
            f"collection {collection!r} in {connection.uri} was not made by `coca index`: "
            "it does not tell which model made its vectors; use another name"
        )
    if properties.get(_LAYOUT) != _NEWEST:
        raise SearchError(
            f"collection {collection!r} in {connection.uri} was made by another version of coca, "
            "whose records hold other fields: `coca index` the pictures again with another "
            "--collection or --uri"
        )
    name = str(found["collection_name"])
    shared = records.TEXT_VECTOR in columns
    info = CollectionInfo(
        uri=connection.uri,
        collection=collection,
        count=0,
        embed_dim=int(columns[records.VECTOR]["params"]["dim"]),
        fingerprint=properties[_FINGERPRINT],
        model=properties.get(_MODEL, ""),
        server_version=connection.server_version,
    )
    layout = Layout(
        name=name,
        texts=name if shared else _texts_name(name),
        text_column=records.TEXT_VECTOR if shared else records.VECTOR,
        words=WORDS in columns,
    )
    return info, layout


def load_collection(connection: Connection, layout: Layout) -> None:
    """Make the collection ready to search, and finish what a killed `make_collection` left."""
    if layout.shared:
        _load(connection, layout.name, {records.VECTOR, layout.text_column}, layout.words)
    else:
        _load(connection, layout.texts, {layout.text_column}, False)
        _load(connection, layout.name, {records.VECTOR}, layout.words)


def _make(
    connection: Connection,
    name: str,
    embed_dim: int,
    properties: dict[str, str],
    vectors: list[str],
) -> None:
    client, types = connection.client, connection.data_type
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(records.ID, types.VARCHAR, is_primary=True, max_length=MAX_BYTES[records.ID])
    for column in vectors:
        schema.add_field(column, types.FLOAT_VECTOR, dim=embed_dim)
    schema.add_field(records.PATH, types.VARCHAR, max_length=MAX_BYTES[records.PATH])
    schema.add_field(records.ALBUM, types.VARCHAR, max_length=MAX_BYTES[records.ALBUM])
    for column in (records.WIDTH, records.HEIGHT, records.TIME):
        schema.add_field(column, types.INT64)
    schema.add_field(
        records.TAGS,
        types.ARRAY,
        element_type=types.VARCHAR,
        max_capacity=records.MAX_TAGS,
        max_length=records.MAX_TAG_BYTES,
    )
    schema.add_field(records.HAS_TEXT, types.BOOL)
    schema.add_field(records.METADATA, types.JSON)
    schema.add_field(records.ORIGIN, types.JSON)
    longest = {"max_length": MAX_BYTES[records.CAPTION]}
    if connection.capabilities.bm25:
        schema.add_field(records.CAPTION, types.VARCHAR, **longest, enable_analyzer=True)
        schema.add_field(WORDS, types.SPARSE_FLOAT_VECTOR)
        schema.add_function(connection.bm25(records.CAPTION, WORDS))
    else:
        schema.add_field(records.CAPTION, types.VARCHAR, **longest)
    with connection.faults(f"make collection {name!r}"):
        client.create_collection(
            name, schema=schema, properties=properties, timeout=connection.timeout_s
        )


def _load(connection: Connection, name: str, vectors: set[str], words: bool) -> None:
    client, timeout_s = connection.client, connection.timeout_s
    with connection.faults(f"load collection {name!r}"):
        there = set(client.list_indexes(name, timeout=timeout_s))
        index = client.prepare_index_params()
        for column in sorted(vectors - there):
            # Nested once more, since Lite reads the values only there; servers read both.
            index.add_index(column, index_type="HNSW", metric_type="IP", params={"params": _HNSW})
        if words and WORDS not in there:
            index.add_index(WORDS, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
        if len(index):
            # Lite has built it when it answers; the client would wait half a second to ask again.
            client.create_index(name, index, timeout=timeout_s, sync=not connection.is_lite)
        client.load_collection(name, timeout=timeout_s)


def _drop_leftover(connection: Connection, name: str) -> None:
    """Remove a second collection whose first one was never made."""
    with connection.faults(f"drop collection {name!r}"):
        connection.client.drop_collection(name, timeout=connection.timeout_s)


def _texts_name(collection: str) -> str:
    return f"{collection}{_TEXTS}"
