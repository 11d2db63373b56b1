"""Vector index of a collection: an index type with its parameters, which Milvus checks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from coca.core.errors import ArgumentError
from coca.search.search_options import MAX_RESULTS

MAX_WIDTH = 8_192
"""Maximum number of search candidates, unless more results are wanted."""
_MIN_WIDTH = 64
_NLIST = 128
"""Clusters of an inverted file index where Milvus reports none: its default."""
_EXACT_SCORES = frozenset({"FLAT", "IVF_FLAT", "HNSW", "GPU_BRUTE_FORCE", "GPU_IVF_FLAT"})
"""Types whose scores are those of the stored vectors; others compress them, or may."""
_NOT_PARAMS = frozenset({"index_type", "metric_type", "field_name", "index_name", "state"})
"""Keys of a description that are not build parameters, besides numbers of rows."""

Value: TypeAlias = int | float | str


def _number(text: str) -> Value:
    """Read a number, or keep the text; Milvus takes booleans in small letters."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.lower() if text in ("True", "False") else text


@dataclass(frozen=True)
class VectorIndex:
    """An index type of Milvus with build parameters.

    Numbers may be given as text, and have the type of a number afterwards.
    """

    type: str
    """Milvus name of the type."""
    params: Mapping[str, Value] = field(default_factory=dict)
    """Build parameters by their Milvus names; Milvus has defaults for most others."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", self.type.strip().upper())
        params = {name: _number(str(value)) for name, value in self.params.items()}
        object.__setattr__(self, "params", params)

    def __str__(self) -> str:
        """Format the index as `parse_index` reads it: `HNSW:M=16,efConstruction=200`."""
        params = ",".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.type}:{params}" if params else self.type

    @classmethod
    def of(cls, type: str, params: Sequence[str] = ()) -> "VectorIndex":
        """Build the index of a type and of parameters such as `M=32`."""
        if not type.strip():
            raise ArgumentError("an index needs a type of Milvus, such as HNSW or FLAT")
        pairs = [tuple(map(str.strip, each.partition("="))) for each in params]
        for each, (name, equals, value) in zip(params, pairs, strict=True):
            if not (name and equals and value):
                raise ArgumentError(f"an index parameter must be KEY=VALUE (M=32), got {each!r}")
            if name in _NOT_PARAMS:
                raise ArgumentError(f"{name} is not a parameter of an index: coca sets it itself")
        return cls(type, {name: value for name, _, value in pairs})

    @property
    def exact_scores(self) -> bool:
        """Whether scores are of the stored vectors; otherwise of compressed vectors."""
        return self.type in _EXACT_SCORES

    @property
    def max_results(self) -> int:
        """Maximum `offset + k`."""
        return 1_024 if self.type.startswith("GPU_") else MAX_RESULTS

    def search_params(self, wanted: int, effort: float) -> dict[str, int | float]:
        """Compute search parameters by their Milvus names, for a number of results.

        Types without a search width, and those of a GPU, are searched with the defaults of Milvus.
        """
        width = max(min(int(max(_MIN_WIDTH, 2 * wanted) * effort), MAX_WIDTH), wanted)
        if self.type == "AUTOINDEX":
            # Servers with HNSW read `ef`, Zilliz Cloud reads `level`.
            return {"level": min(max(round(effort), 1), 10), "ef": width}
        if "HNSW" in self.type:
            return {"ef": width}
        if self.type in ("DISKANN", "AISAQ"):
            return {"search_list": width}
        if self.type.startswith("IVF") or self.type == "SCANN":
            nlist = int(self.params.get("nlist", _NLIST))
            return {"nprobe": min(max(int(max(nlist / 8, 8) * effort), 1), nlist)}
        return {}


DEFAULT_INDEX = VectorIndex("HNSW", {"M": 16, "efConstruction": 200})
"""Index of a new collection, except on Zilliz Cloud.

Its graph is smaller than that of Milvus' defaults: on 100,000 vectors, M=16 has the recall of brute
force.
"""


def parse_index(text: str) -> VectorIndex:
    """Parse an index as it is stored with a collection: `HNSW:M=32,efConstruction=400`."""
    type, _, rest = text.partition(":")
    # A value may contain commas, as names of faiss do.
    params = [part.partition("=") for part in re.split(r",(?=\w+=)", rest)]
    return VectorIndex(type, {name: value for name, sign, value in params if sign})


def index_of(description: Mapping[str, Any]) -> VectorIndex:
    """Read the index from a description of Milvus."""
    values = dict(description)
    # Some versions return the parameters at the top level, others in nested objects.
    while isinstance(nested := values.pop("params", None), Mapping):
        values |= nested
    return VectorIndex(
        str(values["index_type"]),
        {
            name: value
            for name, value in values.items()
            if name not in _NOT_PARAMS and not name.endswith("_rows")
        },
    )
