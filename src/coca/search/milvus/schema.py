"""Schema of a collection: columns, indexes, and properties that identify the model.

A record is one row. Before Milvus 2.4 a row has one vector, so that it joins those of image and
caption; a query then has zeros for the other one. Words are a column of terms, and the sparse
vector that the BM25 function of Milvus computes of them (2.5 and later).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from coca.core.config.frozen_config import Config
from coca.core.errors import ArgumentError, SearchError
from coca.search import records
from coca.search.milvus.connection import Connection
from coca.search.milvus.index_builds import build_index, index_state
from coca.search.milvus.vector_index import DEFAULT_INDEX, VectorIndex, parse_index
from coca.search.perceptual_hash import HASH_BYTES
from coca.search.records import MAX_BYTES, CollectionInfo
from coca.search.search_options import Side

logger = logging.getLogger(__name__)

WORDS, BM25 = "words", "bm25"
"""Columns of the terms of a record, and of the sparse vector that Milvus computes of them."""
TEXT_WORDS, TEXT_BM25 = "text_words", "text_bm25"
"""The same for its labels and the text inside the image."""
BM25_K1, _BM25_B = 2.4, 0.75
"""Parameters of BM25; `k1` is twice 1.2, as terms are repeated twice their weight."""

Consistency: TypeAlias = Literal["Strong", "Session", "Bounded", "Eventually"]


class CollectionSettings(Config):
    """Configuration of a new collection; the defaults suit up to some millions of images."""

    range_error: ClassVar = ArgumentError

    index: VectorIndex | None = None
    """Index of the vectors. Default: `DEFAULT_INDEX`; AUTOINDEX on Zilliz Cloud; and FLAT, which
    is exact, on Milvus Lite and before Milvus 2.4."""
    shards: Annotated[int, Field(ge=1, le=16)] = 1
    """Number of shards that divide the writes: one for each 200 million rows."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """Number of in-memory replicas that share the searches; each needs its own query node."""
    consistency: Consistency = "Bounded"
    """Consistency level for other clients' writes; own writes are always visible.

    `Bounded` is at most some seconds stale; `Strong` waits, about 0.2 s a search.
    """


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Columns and settings of a collection."""

    own_name: str
    """Name of the collection itself, to which an alias leads."""
    embed_dim: int
    index: VectorIndex
    """Index of the vectors."""
    replicas: int
    consistency: str
    """Consistency level, by its Milvus name."""
    joined: bool
    """Whether one column has the vectors of image and caption."""
    words: bool
    """Whether Milvus computes BM25."""

    @property
    def columns(self) -> Sequence[str]:
        """Columns of vectors."""
        return [records.VECTOR] if self.joined else [records.VECTOR, records.TEXT_VECTOR]

    def column(self, side: Side) -> str:
        """Return the column of the vectors of images or captions."""
        return records.TEXT_VECTOR if side == "text" and not self.joined else records.VECTOR

    def part(self, side: Side) -> slice:
        """Return the numbers of a joined vector that are of the image or caption."""
        return slice(self.embed_dim, None) if side == "text" else slice(self.embed_dim)


_FINGERPRINT, _MODEL = "coca.fingerprint", "coca.model"
_INDEX, _REPLICAS, _CONSISTENCY = "coca.index", "coca.replicas", "coca.consistency"
_LAYOUT, _NEWEST = "coca.layout", "4"
SEARCH = "coca.search."
"""Beginning of the names of properties that are saved searches."""
_LOAD_S = 3_600.0
"""Minimum timeout of loading a collection, in seconds."""


def make_collection(
    connection: Connection,
    name: str,
    *,
    embed_dim: int,
    fingerprint: str,
    model: str,
    settings: CollectionSettings,
) -> None:
    """Create an empty collection for the vectors of one model, with its indexes, and load it."""
    index = settings.index or _default_index(connection)
    properties = {
        _FINGERPRINT: fingerprint,
        _MODEL: model,
        _LAYOUT: _NEWEST,
        _INDEX: str(index),
        _REPLICAS: str(settings.replicas),
        _CONSISTENCY: settings.consistency,
    }
    with connection.faults(f"make collection {name!r}"):
        schema = _schema(connection, embed_dim)
    connection.call(
        "create_collection",
        name,
        schema=schema,
        properties=properties,
        num_shards=settings.shards,
        consistency_level=settings.consistency,
    )
    try:
        # A server checks the index now; a wrong one leaves no collection.
        load_collection(connection, describe_collection(connection, name)[1])
    except BaseException:
        connection.call("drop_collection", name)
        raise


def _default_index(connection: Connection) -> VectorIndex:
    if connection.capabilities.cloud:
        return VectorIndex("AUTOINDEX")
    # A graph of joined vectors has neighbours of both sides, and a lower recall of either.
    exact = connection.capabilities.lite or not connection.capabilities.several_vectors
    return VectorIndex("FLAT") if exact else DEFAULT_INDEX


def _schema(connection: Connection, embed_dim: int) -> Any:
    types, capabilities = connection.types.DataType, connection.capabilities
    schema = connection.client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(records.ID, types.VARCHAR, is_primary=True, max_length=MAX_BYTES[records.ID])
    vectors = [records.VECTOR, records.TEXT_VECTOR][: 1 + capabilities.several_vectors]
    for column in vectors:
        schema.add_field(column, types.FLOAT_VECTOR, dim=2 * embed_dim // len(vectors))
    for column in (records.PATH, records.CONTENT, records.CAPTION, records.ALBUM):
        schema.add_field(column, types.VARCHAR, max_length=MAX_BYTES[column])
    schema.add_field(records.CAPTION_SOURCE, types.VARCHAR, max_length=16)
    schema.add_field(records.PERCEPTUAL_HASH, types.VARCHAR, max_length=2 * HASH_BYTES)
    for column in (records.WIDTH, records.HEIGHT, records.TIME):
        schema.add_field(column, types.INT64)
    schema.add_field(
        records.TAGS,
        types.ARRAY,
        element_type=types.VARCHAR,
        max_capacity=records.MAX_TAGS,
        max_length=records.MAX_TAG_BYTES,
    )
    for column in (records.HIDDEN, records.HAS_TEXT):
        schema.add_field(column, types.BOOL)
    for column in (records.METADATA, records.ORIGIN):
        schema.add_field(column, types.JSON)
    if capabilities.tokenizer:
        for terms, sparse in ((WORDS, BM25), (TEXT_WORDS, TEXT_BM25)):
            schema.add_field(
                terms,
                types.VARCHAR,
                max_length=MAX_BYTES[records.CAPTION],
                enable_analyzer=True,
                analyzer_params={"tokenizer": capabilities.tokenizer},
            )
            schema.add_field(sparse, types.SPARSE_FLOAT_VECTOR)
            schema.add_function(
                connection.types.Function(
                    name=sparse,
                    function_type=connection.types.FunctionType.BM25,
                    input_field_names=[terms],
                    output_field_names=[sparse],
                )
            )
    return schema


def describe_collection(connection: Connection, collection: str) -> tuple[CollectionInfo, Layout]:
    """Read the description, without `count`, and the layout of a collection.

    Raises:
        SearchError: Another program or version created it.
    """
    description = connection.call("describe_collection", collection)
    properties = description["properties"]
    if _FINGERPRINT not in properties:
        raise SearchError(
            f"collection {collection!r} in {connection.uri} was not made by `coca index`: the "
            "model of its vectors is not recorded; import its records into a collection of another "
            'name, see "Vectors of another program" in docs/milvus.md'
        )
    if properties.get(_LAYOUT) != _NEWEST:
        raise SearchError(
            f"collection {collection!r} in {connection.uri} was made by another version of coca, "
            "whose records have other fields: `coca index` the images again with another "
            "--collection or --uri"
        )
    columns = {column["name"]: column for column in description["fields"]}
    joined = records.TEXT_VECTOR not in columns
    info = CollectionInfo(
        uri=connection.uri,
        collection=collection,
        count=0,
        embed_dim=int(columns[records.VECTOR]["params"]["dim"]) // (1 + joined),
        fingerprint=properties[_FINGERPRINT],
        model=properties.get(_MODEL, ""),
        store=connection.capabilities.product,
    )
    layout = Layout(
        own_name=str(description["collection_name"]),
        embed_dim=info.embed_dim,
        index=parse_index(properties[_INDEX]),
        replicas=int(properties[_REPLICAS]),
        consistency=properties[_CONSISTENCY],
        joined=joined,
        words=BM25 in columns,
    )
    return info, layout


def load_collection(connection: Connection, layout: Layout) -> Layout:
    """Load a collection for searches, and finish an interrupted `make_collection`.

    Returns:
        The layout with the index that Milvus reports: another client may have rebuilt it.
    """
    for column in layout.columns:
        if index_state(connection, layout.own_name, column) is None:
            build_index(connection, layout.own_name, column, layout.index)
    sparse = VectorIndex("SPARSE_INVERTED_INDEX", {"bm25_k1": BM25_K1, "bm25_b": _BM25_B})
    for column in (BM25, TEXT_BM25) if layout.words else ():
        if index_state(connection, layout.own_name, column) is None:
            build_index(connection, layout.own_name, column, sparse, metric="BM25")
    name, timeout = layout.own_name, max(connection.timeout_s, _LOAD_S)
    connection.call("load_collection", name, timeout=timeout, replica_number=layout.replicas)
    state = index_state(connection, layout.own_name, records.VECTOR)
    return layout if state is None else replace(layout, index=state.index)


def keep_property(connection: Connection, layout: Layout, name: str, value: str) -> None:
    """Store a property of a collection; "" removes it."""
    properties = {name: value}
    connection.call("alter_collection_properties", layout.own_name, properties=properties)


def saved_searches(connection: Connection, collection: str) -> dict[str, str]:
    """Read the saved searches of a collection by name, sorted."""
    properties = connection.call("describe_collection", collection)["properties"]
    return {
        key.removeprefix(SEARCH): search
        for key, search in sorted(properties.items())
        if key.startswith(SEARCH) and search
    }
