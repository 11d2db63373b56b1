"""Vector index of a collection: an index type with its build parameters, parsed and checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coca.core.errors import ArgumentError, did_you_mean
from coca.search.index_params.params import BuildParam, Value, as_text
from coca.search.index_params.types import INDEX_TYPES, IndexType

_NOT_FOR_VECTORS = {
    "MINHASH_LSH": "sets of hashes",
    "SPARSE_INVERTED_INDEX": "words; a collection of captions has one where Milvus can",
    "SPARSE_WAND": "words; a collection of captions has one where Milvus can",
}


@dataclass(frozen=True)
class VectorIndex:
    """An index type with values for all of its build parameters.

    Raises:
        ArgumentError: The type or a parameter is unknown, or a value is not allowed.
    """

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
        """Build the index parameters by their Milvus names.

        Raises:
            ArgumentError: A parameter does not fit the vector size.
        """
        values = {
            param.name: param.to_milvus(self.params[param.name], self.type, embed_dim)
            for param in self.spec.build
        }
        return {name: value for name, value in values.items() if value is not None}

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """Compute the search parameters by their Milvus names.

        Args:
            wanted: Number of results, including skipped results.
            effort: Search width relative to the default 1: more increases recall and latency.
        """
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
