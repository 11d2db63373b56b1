"""Vector index of a collection: an index type that this Milvus supports, with its parameters."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coca.core.errors import ArgumentError, SearchError, did_you_mean
from coca.search.index_params.index_types import INDEX_TYPES, BuildParam, IndexType, Value, as_text
from coca.search.vector_encoding import Precision

logger = logging.getLogger(__name__)

# Capabilities of Milvus by version.
#
# A server does not report its features, so the tables below list them. Those of Lite 3.2 and of the
# pip-installed server 2.3.5 were tested call by call. Newer servers follow the documentation.


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
    several_vectors: bool
    """Whether image and caption vectors fit into one row."""
    shards: bool
    """Several shards for writes."""
    replicas: bool
    """Several in-memory replicas for searches."""
    partition_key: bool
    """Partition key: rows are partitioned by the value of a column.

    Milvus 2.3 upserts rows into the wrong partition, where no filter finds them: tested on 2.3.5.
    """


_LITE = Capabilities(
    name="Milvus Lite",
    version=(3, 2, 2),
    lite=True,
    indexes=frozenset(row.name for row in INDEX_TYPES.values() if row.lite),
    vector_types=frozenset({"FLOAT_VECTOR", "SPARSE_FLOAT_VECTOR"}),
    several_vectors=True,
    shards=False,
    replicas=False,
    partition_key=False,
)

_SERVER_2_3 = Capabilities(
    name="Milvus",
    version=(2, 3, 0),
    indexes=frozenset(),
    vector_types=frozenset({"FLOAT_VECTOR", "BINARY_VECTOR"}),
    several_vectors=False,
    shards=True,
    replicas=True,
    partition_key=False,
)

_SERVER_2_4 = replace(
    _SERVER_2_3,
    vector_types=_SERVER_2_3.vector_types
    | {"FLOAT16_VECTOR", "BFLOAT16_VECTOR", "SPARSE_FLOAT_VECTOR"},
    several_vectors=True,
    partition_key=True,
)

_SERVER_2_6 = replace(_SERVER_2_4, vector_types=_SERVER_2_4.vector_types | {"INT8_VECTOR"})

_SERVERS = {
    (2, 3, 0): _SERVER_2_3,
    (2, 4, 0): _SERVER_2_4,
    (2, 6, 0): _SERVER_2_6,
}
"""First version of a server -> its features, but for the index types."""


def capabilities_of(server_version: str, uri: str = "") -> Capabilities:
    """Look up the capabilities of a Milvus version.

    Example:
        >>> capabilities_of("v2.3.5").partition_key, capabilities_of("v2.6.4").partition_key
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


# Vector index of a collection: an index type with its build parameters, parsed and checked.


_NOT_FOR_VECTORS = {
    "MINHASH_LSH": "sets of hashes",
    "SPARSE_INVERTED_INDEX": "words; a collection of captions has one where Milvus can",
    "SPARSE_WAND": "words; a collection of captions has one where Milvus can",
}


@dataclass(frozen=True)
class VectorIndex:
    """An index type with values for all of its build parameters."""

    type: str
    """Milvus name of a type in `INDEX_TYPES`."""
    params: Mapping[str, Value] = field(default_factory=dict)
    """Build parameters by their Milvus names; missing parameters have their defaults."""

    def __post_init__(self) -> None:
        known = _build_params(self.type)
        for name in self.params:
            if name not in known:
                near = did_you_mean(name, known)
                raise ArgumentError(f"{self.type} has no setting {name!r}: {near}")
        values = {name: self.params.get(name, param.default) for name, param in known.items()}
        for name, value in values.items():
            known[name].check(value, self.type)
        object.__setattr__(self, "params", values)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        """Format the index as `parse_index` reads it: `HNSW:M=16,efConstruction=200`."""
        given = (f"{k}={as_text(v)}" for k, v in self.params.items() if v is not None)
        return ":".join(filter(None, (self.type, ",".join(given))))

    @property
    def spec(self) -> IndexType:
        """The type's row in the table."""
        return INDEX_TYPES[self.type]

    def build_params(self, embed_dim: int) -> dict[str, Any]:
        """Build the index parameters by their Milvus names."""
        values = {
            param.name: param.to_milvus(self.params[param.name], self.type, embed_dim)
            for param in self.spec.build
        }
        return {name: value for name, value in values.items() if value is not None}

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """Compute the search parameters by their Milvus names."""
        return {
            one.name: one.rule.compute(self.params, wanted, effort)
            for one in self.spec.search
            if one.applies(self.params)
        }


def parse_index(text: str) -> VectorIndex:
    """Parse an index specification such as `"HNSW"` or `"HNSW:M=32,efConstruction=400"`.

    Raises:
        ArgumentError: The type or a parameter is unknown, or a value is not allowed.
    """
    name, _, rest = text.partition(":")
    name = name.strip().upper()
    known = _build_params(name)
    values: dict[str, Value] = {}
    for part in filter(None, (part.strip() for part in _split(rest))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in known:
            raise ArgumentError(f"{name} has no setting {part!r}: {did_you_mean(key, known)}")
        values[key] = known[key].parse(value, name)
    return VectorIndex(name, values)


def index_of(description: Mapping[str, Any]) -> VectorIndex:
    """Read the index from a description of Milvus; an unknown type becomes `AUTOINDEX`."""
    name = str(description.get("index_type"))
    spec = INDEX_TYPES.get(name, INDEX_TYPES["AUTOINDEX"])
    # Some versions return the parameters at the top level, others in a nested object.
    nested = description.get("params")
    values = dict(description) | (dict(nested) if isinstance(nested, Mapping) else {})
    if isinstance(inner := values.get("params"), Mapping):
        values |= inner
    given = [param for param in spec.build if param.name in values]
    return VectorIndex(
        spec.name, {param.name: param.parse(str(values[param.name]), spec.name) for param in given}
    )


def _build_params(name: str) -> dict[str, BuildParam]:
    if name in _NOT_FOR_VECTORS:
        raise ArgumentError(f"{name} is for {_NOT_FOR_VECTORS[name]}; CoCa's vectors are dense")
    if name not in INDEX_TYPES:
        raise ArgumentError(f"no index type {name!r}: {did_you_mean(name, INDEX_TYPES)}")
    return {param.name: param for param in INDEX_TYPES[name].build}


def _split(rest: str) -> list[str]:
    """Split parameters at commas, except commas within a value, as in faiss names."""
    parts: list[str] = []
    for piece in rest.split(","):
        if parts and "=" not in piece:
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts


# Choose an index type that Milvus supports.


def choose_index(
    wanted: VectorIndex | None,
    capabilities: Capabilities,
    *,
    precision: Precision = "float32",
    fallback: bool | None = None,
) -> VectorIndex:
    """Choose the index to build: the requested type, or the closest supported type.

    Raises:
        SearchError: It is unsupported, and `fallback` is off, or not for this precision.
    """
    if wanted is None:
        if precision == "binary":
            return VectorIndex("BIN_FLAT")
        return VectorIndex("AUTOINDEX" if capabilities.cloud else "HNSW")
    if precision not in wanted.spec.precisions:
        raise SearchError(
            f"{wanted.type} indexes {' and '.join(wanted.spec.precisions)} vectors, and these are "
            f"{precision}; allowed: {', '.join(_buildable(precision, capabilities))}"
        )
    fallback = capabilities.lite if fallback is None else fallback
    if wanted.type in capabilities.indexes:
        return _without_new_params(wanted, capabilities, fallback=fallback)
    taken, loss = wanted.type, ""
    while taken not in capabilities.indexes:
        spec = INDEX_TYPES[taken]
        if capabilities.cloud or not spec.next_best:
            taken, loss = "AUTOINDEX", "it chooses its own settings"
            break
        taken, loss = spec.next_best, spec.loss
    if not fallback:
        raise SearchError(
            f"{capabilities.name} cannot build {wanted.type}; it can build "
            f"{', '.join(_buildable(precision, capabilities))}, of which {taken} comes closest"
        )
    logger.warning(
        "%s cannot build %s: %s is built instead, so %s",
        capabilities.name,
        wanted.type,
        taken,
        loss,
    )
    return VectorIndex(taken, _known(taken, wanted.params))


def _buildable(precision: Precision, capabilities: Capabilities) -> list[str]:
    return sorted(one for one in capabilities.indexes if precision in INDEX_TYPES[one].precisions)


def _without_new_params(
    wanted: VectorIndex, capabilities: Capabilities, *, fallback: bool
) -> VectorIndex:
    """Reset parameters that this Milvus does not have, and would ignore or refuse."""
    params = dict(wanted.params)
    for param in wanted.spec.build:
        if param.since <= capabilities.version or params[param.name] == param.default:
            continue
        version = ".".join(map(str, param.since))
        lacking = f"{capabilities.name} has no {param.name}; servers from {version} on have it"
        if not fallback:
            raise SearchError(f"{lacking}: without it, {param.without}")
        logger.warning("%s: it is left out, so %s", lacking, param.without)
        params[param.name] = param.default
    return wanted if params == wanted.params else VectorIndex(wanted.type, params)


def _known(index_type: str, params: Mapping[str, Value]) -> dict[str, Value]:
    """Keep the parameters that a type has."""
    return {
        one.name: params[one.name] for one in INDEX_TYPES[index_type].build if one.name in params
    }
