"""What all index types of Milvus have in common: settings with ranges, and how widely to search."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from coca.core.errors import ArgumentError

MAX_RESULTS = 16_384
"""Largest `offset + k`: the limit of a Milvus server, kept on Lite as well."""

_MIN_WIDTH = 64
MAX_WIDTH = 8_192
"""Most candidates that a search keeps, unless more results are wanted."""


def setting(
    default: Any,
    *,
    least: int | float | None = None,
    most: int | float | None = None,
    choices: tuple[str, ...] = (),
    name: str = "",
) -> Any:
    """A field with its range, and its name in Milvus if that differs; None is not sent."""
    metadata = {"least": least, "most": most, "choices": choices, "name": name}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class VectorIndex:
    """What all index types share: a name, checked settings, and what a search needs of them."""

    type: ClassVar[str]
    most_results: ClassVar[int] = MAX_RESULTS
    exact_scores: ClassVar[bool] = False
    """It compares the vectors themselves; otherwise scores are of compressed copies of them."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(self.type, field, getattr(self, field.name))

    def build_params(self, embed_dim: int) -> dict[str, Any]:
        """The settings as Milvus takes them, by its names.

        Raises:
            SearchError: They do not go with vectors of this size.
        """
        return {
            name: _pieces(self.type, value, embed_dim) if name == "m" else value
            for name, value in self._named()
            if name == "m" or value is not None
        }

    def __str__(self) -> str:
        """As `parse_index` reads it: `HNSW:M=16,efConstruction=200`."""
        told = ",".join(f"{name}={value}" for name, value in self._named() if value is not None)
        return f"{self.type}:{told}" if told else self.type

    def _named(self) -> Iterator[tuple[str, Any]]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # A server reads "True" as an index that it can never finish.
            value = str(value).lower() if isinstance(value, bool) else value
            yield field.metadata["name"] or field.name, value

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """How widely to search.

        Args:
            wanted: Results of the query, those that are left out included.
            effort: How much is looked at, against the usual 1; more finds more, and takes longer.
        """
        return {}


def width(wanted: int, effort: float, *, most: int = MAX_WIDTH) -> int:
    """Candidates that a search keeps: twice the results, and at least 64, times the effort."""
    return max(min(int(max(_MIN_WIDTH, 2 * wanted) * effort), most), wanted)


def heaps(nlist: int, effort: float) -> int:
    """Heaps of vectors that a search looks at: an eighth, and at least 8, times the effort."""
    return min(max(int(max(nlist / 8, 8) * effort), 1), nlist)


def refinement(effort: float) -> float:
    """How many times the results are looked at again in a finer copy."""
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
