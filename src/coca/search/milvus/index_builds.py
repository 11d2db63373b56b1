"""Index builds of Milvus: start, poll until finished, and report failures."""

import time
from dataclasses import dataclass

from coca.core.errors import SearchError
from coca.search.milvus.connection import Connection
from coca.search.milvus.vector_index import VectorIndex, index_of

METRIC = "IP"
"""Metric of vectors of length 1: the cosine, in every index type and version of Milvus."""
PATIENCE_S = 1_800.0
"""Timeout without any newly indexed row, in seconds.

A server retries a failed build forever, and large segments add no rows for minutes.
"""
_POLL_S = 0.1


@dataclass(frozen=True)
class IndexState:
    """Build state of the index of one column."""

    index: VectorIndex
    state: str
    """`Finished`, `InProgress`, `Failed`, or another state of Milvus."""
    rows: int
    indexed_rows: int
    reason: str
    """Reason of a failure, as far as Milvus reports it."""


def index_state(connection: Connection, collection: str, column: str) -> IndexState | None:
    """Return the build state of a column's index; None if it has none."""
    if column not in connection.call("list_indexes", collection, field_name=column):
        return None
    described = connection.call("describe_index", collection, column)
    if described is None:
        return None
    reason = ""
    if described["state"] != "Finished":
        with connection.faults(f"describe the index of {column}"):
            handler = connection.client._get_connection()
            _, reason = handler.get_index_state(collection, column, timeout=connection.timeout_s)
    return IndexState(
        index=index_of(described),
        state=str(described["state"]),
        rows=int(described["total_rows"]),
        indexed_rows=int(described["indexed_rows"]),
        reason=str(reason or ""),
    )


def build_index(
    connection: Connection,
    collection: str,
    column: str,
    index: VectorIndex,
    *,
    metric: str = METRIC,
) -> None:
    """Build the index of an unindexed column, and wait until it is finished."""
    params = connection.client.prepare_index_params()
    # Nested once more, since Lite reads only the nested values; servers read both.
    settings = {"params": dict(index.params)}
    params.add_index(column, index_type=index.type, metric_type=metric, params=settings)
    # Lite only records it, and builds it when the collection is loaded.
    try:
        connection.call(
            "create_index", collection, params, sync=False, doing=f"build {index} for {column}"
        )
    except SearchError as error:
        raise SearchError(
            f"{error}; docs/milvus.md lists index types and their parameters"
        ) from error
    done, since = 0, time.monotonic()
    while True:
        now = index_state(connection, collection, column)
        if now is None or now.state == "Failed":
            raise SearchError(_fault(connection, index, now))
        if now.indexed_rows > done:
            done, since = now.indexed_rows, time.monotonic()
        if now.state == "Finished":
            return
        if time.monotonic() - since > PATIENCE_S:
            raise SearchError(_fault(connection, index, now))
        time.sleep(_POLL_S)


def _fault(connection: Connection, index: VectorIndex, now: IndexState | None) -> str:
    summary = f"Milvus at {connection.uri} could not build {index.type}"
    if now is None:
        return f"{summary}: the index is gone"
    reason = f": {now.reason}" if now.reason else ", without a reason"
    return f"{summary}: it is {now.state} at {now.indexed_rows:,} of {now.rows:,} rows{reason}"
