"""Collection schema: columns, indexes and their builds, and properties that identify the model.

An image is one row. Its caption vector is in the same row where Milvus supports two vector columns.
Otherwise it is in a second collection, `NAME_texts`, with the same columns.
"""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from annotated_types import Ge, Interval

from coca.core.config.frozen_config import Config
from coca.core.errors import ArgumentError, SearchError
from coca.core.progress import Bar, ProgressMaker, silent
from coca.search import records
from coca.search.milvus.connection import Connection
from coca.search.milvus.lite import CALIBRATION
from coca.search.milvus.rows import METRIC
from coca.search.milvus.vector_index import DEFAULT_INDEX, VectorIndex, index_of, parse_index
from coca.search.records import MAX_BYTES, CollectionInfo

logger = logging.getLogger(__name__)

# Index builds: start, poll until finished, and report failures.


PATIENCE_S = 1_800.0
"""Timeout without any newly indexed row, in seconds.

A server retries a failed build forever, and large segments add no rows for minutes.
"""
_POLL_S = 0.1


@dataclass(frozen=True)
class IndexState:
    """Build state of the index of one column."""

    column: str
    index: VectorIndex
    state: str
    """`Finished`, `InProgress`, `Failed`, or another state of Milvus."""
    rows: int
    indexed_rows: int
    reason: str
    """Reason of a failure, as far as Milvus reports it."""


def index_state(connection: Connection, collection: str, column: str) -> IndexState | None:
    """Return the build state of a column's index; None if it has none."""
    client, timeout_s = connection.client, connection.timeout_s
    with connection.faults(f"describe the index of {column}"):
        if column not in client.list_indexes(collection, field_name=column, timeout=timeout_s):
            return None
        described = client.describe_index(collection, column, timeout=timeout_s)
        if described is None:
            return None
        done = described["state"] == "Finished"
        return IndexState(
            column=column,
            index=index_of(described),
            state=str(described["state"]),
            rows=int(described["total_rows"]),
            indexed_rows=int(described["indexed_rows"]),
            reason="" if done else connection.index_fault(collection, column),
        )


def served_rows(connection: Connection, collection: str) -> int:
    """Count the rows that searches reach through an index; other segments have none.

    Milvus 2.3 reports an index as finished up to 20 s before its query nodes use it.
    """
    with connection.faults("list the loaded segments"):
        segments = connection.client.list_loaded_segments(collection, timeout=connection.timeout_s)
    # Each segment once, regardless of replicas.
    return sum({one.segment_id: one.num_rows for one in segments if one.index_id > 0}.values())


@contextmanager
def _index_hint() -> Iterator[None]:
    """Add where index types are described to an error of Milvus."""
    try:
        yield
    except SearchError as error:
        raise SearchError(
            f"{error}; docs/milvus.md lists index types and their parameters"
        ) from error


@_index_hint()
def build_index(
    connection: Connection,
    collection: str,
    column: str,
    index: VectorIndex,
    *,
    bar: Bar | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Build the index of an unindexed column, and wait until it is finished."""
    client, params = connection.client, connection.client.prepare_index_params()
    # Nested once more, since Lite reads only the nested values; servers read both.
    settings = {"params": dict(index.params)}
    params.add_index(column, index_type=index.type, metric_type=METRIC, params=settings)
    with connection.faults(f"build {index} for {column}"), connection.write_lock:
        # Lite only records it, and builds it when the collection is loaded.
        client.create_index(collection, params, timeout=connection.timeout_s, sync=False)
    done, since = 0, time.monotonic()
    while True:
        now = index_state(connection, collection, column)
        if now is None or now.state == "Failed":
            raise SearchError(_fault(connection, index, now))
        if now.indexed_rows > done:
            if bar is not None:
                bar.advance(now.indexed_rows - done)
            done, since = now.indexed_rows, time.monotonic()
        if now.state == "Finished":
            return
        if time.monotonic() - since > patience_s:
            raise SearchError(_fault(connection, index, now))
        time.sleep(_POLL_S)


def drop_index(connection: Connection, collection: str, column: str) -> None:
    """Drop the index of a column; the collection must be released."""
    # By any other name Lite drops the indexes of all columns.
    name = f"{column}_idx" if connection.is_lite else column
    with connection.faults(f"drop the index of {column}"), connection.write_lock:
        connection.client.drop_index(collection, name, timeout=connection.timeout_s)


def _fault(connection: Connection, index: VectorIndex, now: IndexState | None) -> str:
    summary = f"Milvus at {connection.uri} could not build {index.type}"
    if now is None:
        return f"{summary}: the index is gone"
    reason = f": {now.reason}" if now.reason else ", without a reason"
    return f"{summary}: it is {now.state} at {now.indexed_rows:,} of {now.rows:,} rows{reason}"


# Configuration of a new collection.

Consistency: TypeAlias = Literal["Strong", "Session", "Bounded", "Eventually"]


@dataclass(frozen=True, kw_only=True)
class CollectionSettings(Config):
    """Configuration of a new collection; the defaults suit up to some millions of images."""

    range_error: ClassVar = ArgumentError

    index: VectorIndex | None = None
    """Index of the vectors. Default: `DEFAULT_INDEX`, or AUTOINDEX on Zilliz Cloud."""
    shards: Annotated[int, Interval(ge=1, le=16)] = 1
    """Number of shards that divide the writes: one for each 200 million rows."""
    replicas: Annotated[int, Ge(1)] = 1
    """Number of in-memory replicas that share the searches; each needs its own query node."""
    consistency: Consistency = "Bounded"
    """Consistency level for other clients' writes; own writes are always visible.

    `Bounded` is at most some seconds stale; `Strong` waits, about 0.2 s a search.
    """


# Lite does not store a collection's description but stores its properties; servers store both.
FINGERPRINT, MADE_FOR = "coca.fingerprint", "coca.made_for"
_MODEL, _LAYOUT = "coca.model", "coca.layout"
_ENCODING = "coca.encoding"
"""Property of collections of an earlier version, whose vectors are encoded."""
_INDEX, _REPLICAS, _CONSISTENCY = "coca.index", "coca.replicas", "coca.consistency"
_NEWEST = "2"
_TEXTS = "_texts"
_LOAD_S = 3_600.0
"""Minimum timeout of loading a collection, in seconds; Lite builds a new index while loading."""
_RETRY_S, _PAUSE_S = 60.0, 1.0
"""Seconds in which a failed load is retried, and between two attempts."""


@dataclass(frozen=True)
class Layout:
    """Collections and columns of the parts of a record."""

    name: str
    """Own name of the collection, not an alias."""
    texts: str
    """Collection of the caption vectors: itself, or the second collection."""
    text_column: str
    """Column of the caption vectors."""
    index: VectorIndex
    """Requested vector index."""
    replicas: int
    consistency: str
    """Consistency level, by its Milvus name."""
    made_for: str
    """Public name it was created for."""
    identity: tuple[int, int] = (0, 0)
    """Id and creation time on a server; zeros on Lite."""

    @property
    def vectors(self) -> list[tuple[str, str]]:
        """Collection and column of each vector field."""
        texts = (self.texts, self.text_column)
        return [texts, (self.name, records.VECTOR)]

    @property
    def shared(self) -> bool:
        """Whether both vectors are in one row."""
        return self.texts == self.name


def check_name(collection: str) -> None:
    """Validate a collection name against the rules of Milvus and the reserved suffix."""
    if not re.fullmatch(r"[A-Za-z_]\w{0,247}", collection, re.ASCII):
        raise ArgumentError(
            f"{collection!r} cannot name a collection: use letters, digits and _, "
            "and begin with a letter or _"
        )
    if collection.endswith(_TEXTS):
        raise ArgumentError(
            f"{collection!r} cannot name a collection: "
            f"{_TEXTS} at the end is kept for the captions of another one"
        )


def make_collection(
    connection: Connection,
    collection: str,
    *,
    embed_dim: int,
    fingerprint: str,
    model: str,
    settings: CollectionSettings,
    made_for: str,
) -> None:
    """Create an empty collection for the vectors of one model."""
    capabilities = connection.capabilities
    index = settings.index or (VectorIndex("AUTOINDEX") if capabilities.cloud else DEFAULT_INDEX)
    properties = {
        FINGERPRINT: fingerprint,
        MADE_FOR: made_for,
        _MODEL: model,
        _LAYOUT: _NEWEST,
        _INDEX: str(index),
        _REPLICAS: str(settings.replicas),
        _CONSISTENCY: settings.consistency,
    }
    # The main collection is created last, so that a killed process never leaves half a collection.
    if not capabilities.several_vectors:
        texts = texts_name(collection)
        # It may be left of a collection whose main collection was never created.
        _drop(connection, texts)
        _make(connection, texts, embed_dim, properties, settings)
    _make(connection, collection, embed_dim, properties, settings)
    if settings.index is None:
        return
    try:
        # A server checks it now; then a wrong index leaves no collection.
        load_collection(connection, describe_collection(connection, collection)[1])
    except SearchError:
        _drop(connection, collection)
        _drop(connection, texts_name(collection))
        raise


def _drop(connection: Connection, name: str) -> None:
    with connection.faults(f"drop collection {name!r}"):
        connection.client.drop_collection(name, timeout=connection.timeout_s)


def has_collection(connection: Connection, collection: str) -> bool:
    """Return whether a collection or alias of that name exists."""
    with connection.faults("list its collections"):
        return bool(connection.client.has_collection(collection, timeout=connection.timeout_s))


def list_collections(connection: Connection) -> list[str]:
    """List all collections, sorted, without the second collections for captions."""
    with connection.faults("list its collections"):
        names = set(connection.client.list_collections(timeout=connection.timeout_s))
    return sorted(names - {texts_name(name) for name in names})


def describe(connection: Connection, collection: str) -> dict[str, Any]:
    """Describe a collection by the call of Milvus."""
    with connection.faults(f"describe collection {collection!r}"):
        found: dict[str, Any] = connection.client.describe_collection(
            collection, timeout=connection.timeout_s
        )
    return found


def model_in(found: dict[str, Any]) -> str:
    """Return the model of a described collection; empty if this package did not create it."""
    return str(found["properties"].get(_MODEL, ""))


_FIELDS = (
    records.ID,
    records.VECTOR,
    records.PATH,
    records.CAPTION,
    records.ALBUM,
    records.WIDTH,
    records.HEIGHT,
    records.TIME,
    records.TAGS,
    records.METADATA,
    records.HAS_TEXT,
    records.ORIGIN,
)
"""Fields of every collection."""


def describe_collection(connection: Connection, collection: str) -> tuple[CollectionInfo, Layout]:
    """Read the description (without `count`) and the layout of a collection."""
    found = describe(connection, collection)
    properties = found["properties"]
    columns = {column["name"]: column for column in found["fields"]}
    if FINGERPRINT not in properties or records.ORIGIN not in columns:
        lacking = ", ".join(name for name in _FIELDS if name not in columns)
        raise SearchError(
            f"collection {collection!r} in {connection.uri} was not made by `coca index`: it does "
            "not record the model of its vectors"
            f"{f', and lacks the fields {lacking}' if lacking else ''}; import its records into a "
            'collection of another name, see "Vectors of another program" in docs/milvus.md'
        )
    encoded = _ENCODING in properties
    if properties.get(_LAYOUT) != _NEWEST or MADE_FOR not in properties or encoded:
        raise SearchError(
            f"collection {collection!r} in {connection.uri} was made by another version of coca, "
            "whose records contain other fields: `coca index` the images again with another "
            "--collection or --uri"
        )
    name = str(found["collection_name"])
    shared = records.TEXT_VECTOR in columns
    info = CollectionInfo(
        uri=connection.uri,
        collection=collection,
        count=0,
        embed_dim=int(columns[records.VECTOR]["params"]["dim"]),
        fingerprint=properties[FINGERPRINT],
        model=properties.get(_MODEL, ""),
        server_version=connection.server_version,
        calibration=properties.get(CALIBRATION, ""),
    )
    layout = Layout(
        name=name,
        texts=name if shared else texts_name(name),
        text_column=records.TEXT_VECTOR if shared else records.VECTOR,
        index=parse_index(properties[_INDEX]),
        replicas=int(properties[_REPLICAS]),
        consistency=properties[_CONSISTENCY],
        made_for=properties[MADE_FOR],
        identity=(int(found.get("collection_id", 0)), int(found.get("created_timestamp", 0))),
    )
    return info, layout


def load_collection(connection: Connection, layout: Layout) -> None:
    """Load the collection for searches, and finish an interrupted `make_collection`."""
    for name, column in layout.vectors:
        # Lite searches an unindexed column row by row, and the index is most of a collection's
        # cost. So the caption index is built with the first caption.
        waits = connection.is_lite and column == records.TEXT_VECTOR
        if not waits and index_state(connection, name, column) is None:
            build_index(connection, name, column, layout.index)
    with connection.faults(f"load collection {layout.name!r}"):
        for name in {layout.texts, layout.name}:
            _load(connection, name, layout.replicas)


def _load(connection: Connection, name: str, replicas: int) -> None:
    deadline = time.monotonic() + _RETRY_S
    while True:
        try:
            timeout_s = max(connection.timeout_s, _LOAD_S)
            connection.client.load_collection(name, timeout=timeout_s, replica_number=replicas)
            return
        except connection.milvus_error as error:
            # Milvus 2.3 keeps the error of a query node for 10 s while it loads again: for example
            # of a node that met an index which was dropped meanwhile.
            if "show collection failed" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)


def index_captions(connection: Connection, layout: Layout) -> None:
    """Build the index of caption vectors, if it does not exist yet."""
    name, column = layout.texts, layout.text_column
    with connection.write_lock:
        if index_state(connection, name, column) is None:
            build_index(connection, name, column, layout.index)


def release_collection(connection: Connection, layout: Layout) -> None:
    """Release the collection from memory, so that its index may change."""
    with connection.faults(f"release collection {layout.name!r}"):
        for name in {layout.texts, layout.name}:
            connection.client.release_collection(name, timeout=connection.timeout_s)


def change_index(
    connection: Connection,
    layout: Layout,
    index: VectorIndex,
    *,
    rows: int,
    progress: ProgressMaker = silent,
    patience_s: float = PATIENCE_S,
) -> Layout:
    """Replace the index of all vectors; searches fail meanwhile, and no row is lost.

    Returns:
        The layout with the new index.
    """
    # On Lite captions may have no index yet.
    indexed = [one for one in layout.vectors if index_state(connection, *one) is not None]
    release_collection(connection, layout)
    try:
        with progress(f"build {index.type}", rows * len(indexed)) as bar:
            _rebuild(connection, indexed, index, bar, patience_s)
        if connection.is_lite:
            with _index_hint():
                load_collection(connection, layout)
        _keep_property(connection, layout, _INDEX, str(index))
        layout = replace(layout, index=index)
    except SearchError:
        logger.warning("%s could not be built; %s is restored", index, layout.index)
        with progress(f"build {layout.index.type} again", rows * len(indexed)) as bar:
            _rebuild(connection, indexed, layout.index, bar, PATIENCE_S)
        raise
    finally:
        # This also finishes a build interrupted by Ctrl-C.
        load_collection(connection, layout)
    return layout


def _rebuild(
    connection: Connection,
    vectors: Sequence[tuple[str, str]],
    index: VectorIndex,
    bar: Bar,
    patience_s: float,
) -> None:
    for name, column in vectors:
        drop_index(connection, name, column)
        build_index(connection, name, column, index, bar=bar, patience_s=patience_s)


def keep_calibration(connection: Connection, layout: Layout, text: str) -> None:
    """Store the calibration of match scores in the collection's properties; "" removes it."""
    _keep_property(connection, layout, CALIBRATION, text)


def _keep_property(connection: Connection, layout: Layout, name: str, value: str) -> None:
    with connection.faults(f"change collection {layout.name!r}"), connection.write_lock:
        connection.client.alter_collection_properties(
            layout.name, properties={name: value}, timeout=connection.timeout_s
        )


def _make(
    connection: Connection,
    name: str,
    embed_dim: int,
    properties: dict[str, str],
    settings: CollectionSettings,
) -> None:
    client, types = connection.client, connection.data_type
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(records.ID, types.VARCHAR, is_primary=True, max_length=MAX_BYTES[records.ID])
    schema.add_field(records.VECTOR, types.FLOAT_VECTOR, dim=embed_dim)
    if connection.capabilities.several_vectors:
        schema.add_field(records.TEXT_VECTOR, types.FLOAT_VECTOR, dim=embed_dim)
    for column in (records.PATH, records.CAPTION, records.ALBUM):
        schema.add_field(column, types.VARCHAR, max_length=MAX_BYTES[column])
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
    with connection.faults(f"make collection {name!r}"):
        client.create_collection(
            name,
            schema=schema,
            properties=properties,
            num_shards=settings.shards,
            consistency_level=settings.consistency,
            timeout=connection.timeout_s,
        )


def texts_name(collection: str) -> str:
    """Return the name of the caption collection of an image collection."""
    return f"{collection}{_TEXTS}"
