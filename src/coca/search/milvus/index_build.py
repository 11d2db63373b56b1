"""Building an index: watched until it is done, and given up with the reason if it never will be."""

import time
from dataclasses import dataclass

from coca.core.errors import SearchError
from coca.core.progress import Bar
from coca.search.index_params.advisor import index_of
from coca.search.index_params.params import VectorIndex
from coca.search.milvus.connection import Connection

PATIENCE_S = 1_800.0
"""How long no row may be added to an index before its building is given up.

A server tries a failed building again for ever, and large segments add no rows for minutes.
"""
_POLL_S = 0.1


@dataclass(frozen=True)
class IndexState:
    """How far the index of one column is."""

    column: str
    index: VectorIndex
    state: str
    """`Finished`, `InProgress`, `Failed`, or what else Milvus says."""
    rows: int
    indexed_rows: int
    reason: str
    """Why it failed, as far as Milvus says."""


def index_state(connection: Connection, collection: str, column: str) -> IndexState | None:
    """How far the index of a column is; None if it has none."""
    client, timeout_s = connection.client, connection.timeout_s
    with connection.faults(f"describe the index of {column}"):
        if column not in client.list_indexes(collection, field_name=column, timeout=timeout_s):
            return None
        told = client.describe_index(collection, column, timeout=timeout_s)
        if told is None:
            return None
        done = told["state"] == "Finished"
        return IndexState(
            column=column,
            index=index_of(told),
            state=str(told["state"]),
            rows=int(told["total_rows"]),
            indexed_rows=int(told["indexed_rows"]),
            reason="" if done else connection.index_fault(collection, column),
        )


def served_rows(connection: Connection, collection: str) -> int:
    """Rows that searches reach through an index; the others lie in segments without one.

    Milvus 2.3 tells that an index is finished up to 20 s before its query nodes go over to it.
    """
    with connection.faults("list the loaded segments"):
        segments = connection.client.list_loaded_segments(collection, timeout=connection.timeout_s)
    # Each once, however many replicas hold it.
    return sum({one.segment_id: one.num_rows for one in segments if one.index_id > 0}.values())


def build_index(
    connection: Connection,
    collection: str,
    column: str,
    index: VectorIndex,
    *,
    embed_dim: int,
    bar: Bar | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Build the index of a column that has none, and wait until it is done.

    Args:
        connection: Where the collection is.
        collection: Its name.
        column: The vectors.
        index: Its type and settings; one that this Milvus can build.
        embed_dim: Numbers in a vector.
        bar: Advanced by the rows that were added.
        patience_s: How long no row may be added before it is given up.

    Raises:
        SearchError: Milvus refuses it, fails, or adds no more rows.
    """
    params = connection.client.prepare_index_params()
    # Nested once more, since Lite reads the values only there; servers read both.
    settings = {"params": index.build_params(embed_dim)}
    params.add_index(column, index_type=index.type, metric_type="IP", params=settings)
    with connection.faults(f"build {index.type} for {column}"), connection.write_lock:
        # Lite only notes it, and builds it when the collection is loaded.
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
    """Remove the index of a column; the collection must not be in memory."""
    # By any other name Lite would drop the indexes of all columns.
    name = f"{column}_idx" if connection.is_lite else column
    with connection.faults(f"drop the index of {column}"), connection.write_lock:
        connection.client.drop_index(collection, name, timeout=connection.timeout_s)


def _fault(connection: Connection, index: VectorIndex, now: IndexState | None) -> str:
    words = f"Milvus at {connection.uri} could not build {index.type}"
    if now is None:
        return f"{words}: the index is gone"
    told = f": {now.reason}" if now.reason else ", and does not say why"
    gpu = "; one without a GPU never does" if index.type.startswith("GPU_") else ""
    return f"{words}: it is {now.state} at {now.indexed_rows:,} of {now.rows:,} rows{told}{gpu}"
