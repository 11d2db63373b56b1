"""Base class of index types: validated parameters and search width."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from coca.core.errors import ArgumentError

MAX_RESULTS = 16_384
"""Maximum `offset + k`: the limit of a Milvus server, applied on Lite as well."""

_MIN_WIDTH = 64
MAX_WIDTH = 8_192
"""Maximum number of search candidates, unless more results are wanted."""


def setting(
    default: Any,
    *,
    least: int | float | None = None,
    most: int | float | None = None,
    choices: tuple[str, ...] = (),
    name: str = "",
) -> Any:
    """Declare a parameter with its range and its Milvus name; None is not sent."""
    metadata = {"least": least, "most": most, "choices": choices, "name": name}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class VectorIndex:
    """Base class of index types, with validated build parameters and search parameters."""

    type: ClassVar[str]
    most_results: ClassVar[int] = MAX_RESULTS
    exact_scores: ClassVar[bool] = False
    """Whether scores are of the original vectors; otherwise of compressed vectors."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(self.type, field, getattr(self, field.name))

    def build_params(self, embed_dim: int) -> dict[str, Any]:
        """Build the index parameters by their Milvus names.

        Raises:
            SearchError: A parameter does not fit the vector size.
        """
        return {
            name: _pieces(self.type, value, embed_dim) if name == "m" else value
            for name, value in self._named()
            if name == "m" or value is not None
        }

    def __str__(self) -> str:
        """Format the index as `parse_index` reads it: `HNSW:M=16,efConstruction=200`."""
        values = ",".join(f"{name}={value}" for name, value in self._named() if value is not None)
        return f"{self.type}:{values}" if values else self.type

    def _named(self) -> Iterator[tuple[str, Any]]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # With "True", a server never finishes the index build.
            value = str(value).lower() if isinstance(value, bool) else value
            yield field.metadata["name"] or field.name, value

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """Compute the search parameters.

        Args:
            wanted: Number of results, including skipped results.
            effort: Search width relative to the default 1: more increases recall and latency.
        """
        return {}


def width(wanted: int, effort: float, *, most: int = MAX_WIDTH) -> int:
    """Compute the number of candidates: twice the results, and at least 64, times the effort."""
    return max(min(int(max(_MIN_WIDTH, 2 * wanted) * effort), most), wanted)


def heaps(nlist: int, effort: float) -> int:
    """Compute the number of clusters to probe: an eighth, and at least 8, times the effort."""
    return min(max(int(max(nlist / 8, 8) * effort), 1), nlist)


def refinement(effort: float) -> float:
    """Compute the refinement factor: candidates rescored with finer vectors, per result."""
    return max(2.0 * effort, 1.0)


def _check(index_type: str, field: Any, value: Any) -> None:
    least, most, choices = (field.metadata[key] for key in ("least", "most", "choices"))
    name = f"{field.metadata['name'] or field.name} of {index_type}"
    kind = field.type
    if value is None and "None" in str(kind):
        return
    if kind is bool and not isinstance(value, bool):
        raise ArgumentError(f"{name} is {value!r}, and not true or false")
    if choices and value not in choices:
        raise ArgumentError(f"{name} is {value!r}; it may be {', '.join(choices)}")
    if least is None:
        return
    right = int | float if "float" in str(kind) else int
    if isinstance(value, bool) or not isinstance(value, right):
        raise ArgumentError(f"{name} is {value!r}, and not a number")
    if value < least or (most is not None and value > most):
        ending = "or more" if most is None else f"to {most:,}"
        raise ArgumentError(f"{name} is {value:,}; it may be {least:,} {ending}")


def _pieces(index_type: str, given: int | None, embed_dim: int) -> int:
    if given is None:
        return max(m for m in range(1, max(embed_dim // 8, 1) + 1) if embed_dim % m == 0)
    if embed_dim % given:
        whole = [m for m in range(1, embed_dim + 1) if embed_dim % m == 0]
        near = sorted(sorted(whole, key=lambda m: abs(m - given))[:2])
        raise ArgumentError(
            f"m of {index_type} is {given}, which does not divide the {embed_dim} numbers of a "
            f"vector; near ones that do: {', '.join(map(str, near))}"
        )
    return given
