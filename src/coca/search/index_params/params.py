"""Parameters of an index type: build parameters, and search parameters that follow the effort."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from coca.core.errors import ArgumentError

MAX_RESULTS = 16_384
"""Maximum `offset + k`: the limit of a Milvus server, applied on Lite as well."""

MAX_WIDTH = 8_192
"""Maximum number of search candidates, unless more results are wanted."""
_MIN_WIDTH = 64

Value: TypeAlias = bool | int | float | str | None
"""Value of a build parameter; None is not sent, so the server uses its own default."""

Version: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class BuildParam:
    """A build parameter of an index type, by its Milvus name."""

    name: str
    kind: type
    """`bool`, `int`, `float` or `str`."""
    default: Value
    about: str
    low: int | float | None = None
    """Minimum, inclusive; None: the value is not a number."""
    high: int | float | None = None
    """Maximum, inclusive; None: unlimited."""
    choices: tuple[str, ...] = ()
    divides: bool = False
    """The value must divide the vector size; None becomes its largest divisor up to an eighth."""
    since: Version = (0, 0, 0)
    """First server version that has the parameter."""
    without: str = ""
    """What is lost on an older server, after "so"."""

    @property
    def allowed(self) -> str:
        """The allowed values, for messages and documentation."""
        if self.kind is bool:
            return "true or false"
        if self.choices:
            return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.low is None:
            return "a text"
        return (
            f"{self.low:,} to {self.high:,}" if self.high is not None else f"{self.low:,} or more"
        )

    def parse(self, text: str, index_type: str) -> Value:
        """Parse a value; `check` validates it.

        Raises:
            ArgumentError: It is not of the parameter's kind.
        """
        if self.kind is bool:
            if text.lower() not in ("true", "false"):
                raise self._error(index_type, repr(text))
            return text.lower() == "true"
        try:
            value: Value = self.kind(text)
        except ValueError:
            raise self._error(index_type, repr(text)) from None
        return value

    def check(self, value: Value, index_type: str) -> None:
        """Validate a value.

        Raises:
            ArgumentError: It is of another kind, or not allowed.
        """
        if value is None and self.default is None:
            return
        numbers = (int, float) if self.kind is float else (self.kind,)
        if not isinstance(value, numbers) or (isinstance(value, bool) and self.kind is not bool):
            raise self._error(index_type, repr(value))
        if self.choices and value not in self.choices:
            raise self._error(index_type, repr(value))
        if self.low is not None and not isinstance(value, bool | str | None):
            high = float("inf") if self.high is None else self.high
            if not self.low <= value <= high:
                raise self._error(index_type, f"{value:,}")

    def to_milvus(self, value: Value, index_type: str, embed_dim: int) -> Value:
        """Return the value that is sent to Milvus for vectors of a size.

        Raises:
            ArgumentError: It must divide the vector size, and does not.
        """
        if self.divides:
            return _divisor(None if value is None else int(value), embed_dim, self.name, index_type)
        return as_text(value) if isinstance(value, bool) else value

    def _error(self, index_type: str, got: str) -> ArgumentError:
        number = {int: "a whole number, ", float: "a number, "}.get(self.kind, "")
        return ArgumentError(
            f"{self.name} of {index_type} must be {number}{self.allowed}, got {got}"
        )


@dataclass(frozen=True)
class EffortRule:
    """A search parameter as a function of build parameters, results wanted and effort."""

    formula: str
    """The function, for documentation: `k` results at `effort`."""
    compute: Callable[[Mapping[str, Any], int, float], int | float]


@dataclass(frozen=True)
class SearchParam:
    """A search parameter of an index type, by its Milvus name."""

    name: str
    rule: EffortRule
    only_if: str = ""
    """Build parameter that must be true, or false with a `!` in front; empty: always sent."""

    def applies(self, params: Mapping[str, Value]) -> bool:
        """Return whether an index of these build parameters has the search parameter."""
        switch = self.only_if.removeprefix("!")
        return not switch or bool(params[switch]) != self.only_if.startswith("!")


def as_text(value: Value) -> str:
    """Format a value as Milvus expects it: with "True", a server never finishes the build."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def width(wanted: int, effort: float, *, high: int = MAX_WIDTH) -> int:
    """Compute the number of candidates: twice the results, and at least 64, times the effort."""
    return max(min(int(max(_MIN_WIDTH, 2 * wanted) * effort), high), wanted)


def _probes(params: Mapping[str, Any], wanted: int, effort: float) -> int:
    nlist = params["nlist"]
    return min(max(int(max(nlist / 8, 8) * effort), 1), nlist)


WIDTH = EffortRule(
    "max(64, 2k) x effort, from k to 8,192", lambda params, wanted, effort: width(wanted, effort)
)
NARROW_WIDTH = EffortRule(
    "as `ef`, at most 2,048", lambda params, wanted, effort: min(width(wanted, effort), 2_048)
)
PROBES = EffortRule("max(nlist / 8, 8) x effort, from 1 to nlist", _probes)
REORDERED = EffortRule(
    "max(64, 2k) x 4 effort, from k to 16,384",
    lambda params, wanted, effort: width(wanted, 4 * effort, high=MAX_RESULTS),
)
REFINEMENT = EffortRule(
    "2 x effort, at least 1", lambda params, wanted, effort: max(2.0 * effort, 1.0)
)
LEVEL = EffortRule(
    "effort, rounded, from 1 to 10", lambda params, wanted, effort: min(max(round(effort), 1), 10)
)
UNQUANTIZED = EffortRule("0", lambda params, wanted, effort: 0)


def _divisor(given: int | None, embed_dim: int, name: str, index_type: str) -> int:
    if given is None:
        return max(m for m in range(1, max(embed_dim // 8, 1) + 1) if embed_dim % m == 0)
    if embed_dim % given:
        divisors = [m for m in range(1, embed_dim + 1) if embed_dim % m == 0]
        near = sorted(sorted(divisors, key=lambda m: abs(m - given))[:2])
        raise ArgumentError(
            f"{name} of {index_type} must divide the {embed_dim} numbers of a vector, got {given}; "
            f"near ones that do: {', '.join(map(str, near))}"
        )
    return given
