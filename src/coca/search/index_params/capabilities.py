"""Capabilities of Milvus by version.

A server does not report its features, so the tables below list them. Those of Lite 3.2 and of the
pip-installed server 2.3.5 were tested call by call. Newer servers follow the Milvus documentation.
"""

import re
from dataclasses import dataclass, replace

from coca.core.errors import SearchError
from coca.search.index_params.index_types import INDEX_TYPES

_FIRST_SERVER = (2, 3)
"""First version with `upsert` and array columns."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Features of one Milvus version; missing features are emulated or refused."""

    name: str
    """Name for messages, such as `"Milvus Lite 3.2"`."""
    version: tuple[int, int, int]
    lite: bool = False
    """Runs inside the client's process: one process a folder, one writer at a time."""
    cloud: bool = False
    """Zilliz Cloud, which chooses its own parameters for AUTOINDEX."""
    indexes: frozenset[str]
    """Index types for dense vectors; for servers they follow from the version.

    Servers do not report whether they have a GPU: without a GPU, a server accepts GPU index types
    and never finishes the build.
    """
    vector_types: frozenset[str]
    """Data types of vectors, by their Milvus names."""
    metrics: frozenset[str]
    """Metrics for float vectors."""
    vector_columns: int
    """Maximum number of vector columns in a collection."""
    group_by: bool
    """One result for each value of a column. Milvus 2.3 accepts the parameter and ignores it."""
    templates: bool
    """Filter templates: values are sent separately from the expression."""
    shards: bool
    """Several shards for writes."""
    replicas: bool
    """Several in-memory replicas for searches."""
    partition_key: bool
    """Partition key: rows are partitioned by the value of a column.

    Milvus 2.3 upserts rows into the wrong partition, where no filter finds them: tested on 2.3.5.
    """

    @property
    def several_vectors(self) -> bool:
        """Whether image and caption vectors fit into one row."""
        return self.vector_columns > 1


_LITE = Capabilities(
    name="Milvus Lite",
    version=(3, 2, 2),
    lite=True,
    indexes=frozenset(row.name for row in INDEX_TYPES.values() if row.lite),
    vector_types=frozenset({"FLOAT_VECTOR", "SPARSE_FLOAT_VECTOR"}),
    metrics=frozenset({"COSINE", "IP", "L2"}),
    vector_columns=4,
    group_by=True,
    templates=False,
    shards=False,
    replicas=False,
    partition_key=False,
)

_SERVER_2_3 = Capabilities(
    name="Milvus",
    version=(2, 3, 0),
    indexes=frozenset(),
    vector_types=frozenset({"FLOAT_VECTOR", "BINARY_VECTOR"}),
    metrics=frozenset({"COSINE", "IP", "L2"}),
    vector_columns=1,
    group_by=False,
    templates=False,
    shards=True,
    replicas=True,
    partition_key=False,
)

_SERVER_2_4 = replace(
    _SERVER_2_3,
    vector_types=_SERVER_2_3.vector_types
    | {"FLOAT16_VECTOR", "BFLOAT16_VECTOR", "SPARSE_FLOAT_VECTOR"},
    vector_columns=4,
    group_by=True,
    partition_key=True,
)

_SERVER_2_5 = replace(_SERVER_2_4, templates=True)

_SERVER_2_6 = replace(_SERVER_2_5, vector_types=_SERVER_2_5.vector_types | {"INT8_VECTOR"})

_SERVERS = {
    (2, 3, 0): _SERVER_2_3,
    (2, 4, 0): _SERVER_2_4,
    (2, 5, 0): _SERVER_2_5,
    (2, 6, 0): _SERVER_2_6,
}
"""First version of a server -> its features, but for the index types."""


def capabilities_of(server_version: str, uri: str = "") -> Capabilities:
    """Look up the capabilities of a Milvus version.

    Args:
        server_version: Version as reported: `"milvus_lite-3.2.2"`, `"v2.6.4"`, `"v2.3.5-lite"`.
        uri: URI, by which Zilliz Cloud is recognized.

    Example:
        >>> capabilities_of("v2.3.5").group_by, capabilities_of("v2.6.4").group_by
        (False, True)
    """
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", server_version)
    if found is None:
        raise SearchError(f"{uri or 'the server'} reports no version of Milvus: {server_version!r}")
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    numbers = f"{version[0]}.{version[1]}"
    if server_version.startswith("milvus_lite"):
        if version < (3, 0, 0):
            raise SearchError(
                f"{uri or 'the folder'} is kept by Milvus Lite {numbers}; 3.2 or newer is needed"
            )
        return replace(_LITE, name=f"Milvus Lite {numbers}", version=version)
    if version[:2] < _FIRST_SERVER:
        raise SearchError(f"{uri or 'the server'} is Milvus {numbers}; 2.3 or newer is needed")
    table = _SERVERS[max(first for first in _SERVERS if first <= version)]
    indexes = {row.name: row.hardware for row in INDEX_TYPES.values() if row.since <= version}
    if "zilliz" in uri or "zilliz" in server_version.lower():
        # It chooses the index itself, and offers memory, disk and GPU as cluster types.
        cloud = frozenset({"AUTOINDEX", "FLAT"})
        name = f"Zilliz Cloud ({numbers})"
        return replace(table, name=name, version=version, cloud=True, indexes=cloud)
    if server_version.endswith("-lite"):
        # The pip-installed server: built without disk and GPU indexes.
        indexes = {name: hardware for name, hardware in indexes.items() if not hardware}
    return replace(table, name=f"Milvus {numbers}", version=version, indexes=frozenset(indexes))
