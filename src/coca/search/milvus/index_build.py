"""Index builds: start, poll until finished, and report failures."""

import time
from dataclasses import dataclass

from coca.core.errors import SearchError
from coca.core.progress import Bar
from coca.search.index_params.vector_index import VectorIndex, index_of
from coca.search.milvus.connection import Connection
from coca.search.vector_codec import VectorCodec

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


def build_index(
    connection: Connection,
    collection: str,
    column: str,
    index: VectorIndex,
    *,
    codec: VectorCodec,
    bar: Bar | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Build the index of an unindexed column, and wait until it is finished."""
    params = connection.client.prepare_index_params()
    # Nested once more, since Lite reads only the nested values; servers read both.
    settings = {"params": index.build_params(codec.dimensions)}
    params.add_index(column, index_type=index.type, metric_type=codec.metric, params=settings)
    with connection.faults(f"build {index.type} for {column}"), connection.write_lock:
        # Lite only records it, and builds it when the collection is loaded.
        connection.client.create_index(collection, params, timeout=connection.timeout_s, sync=False)
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
    gpu = "; one without a GPU never does" if index.type.startswith("GPU_") else ""
    return f"{summary}: it is {now.state} at {now.indexed_rows:,} of {now.rows:,} rows{reason}{gpu}"
