"""Builders of filters, in the filter language, with values quoted against injection.

    all_of(where("metadata.year", ">", 2020), negate(has_any_tag(["draft", "private"])))

A filter is a text of the language that `coca.search.filter_language` parses; each store prints the
parsed filter in its own language, `coca.search.filter_printers`.
"""

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time

from coca.core.errors import ArgumentError
from coca.search.filter_language import COLUMNS, Value, parse
from coca.search.filter_printers import listed, literal, quoted
from coca.search.records import HIDDEN, ID, METADATA, TAGS, TIME

_OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "like", "in", "not in")
_EVERYTHING, _NOTHING = f'{ID} != ""', f'{ID} == ""'
IS_HIDDEN = f"{HIDDEN} == true"
"""Filter for hidden records."""
NOT_HIDDEN = f"{HIDDEN} == false"
"""Filter for the records that searches find."""


def where(field: str, operator: str, value: Value | Sequence[Value]) -> str:
    r"""Build a filter that compares one field with a value; any value is safe.

    Args:
        field: A column, or `metadata.KEY`; KEY may have any characters.
        operator: `==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `not in` or `like`.
        value: Text, number or truth value; a list of these for `in` and `not in`.

    Raises:
        ArgumentError: Unknown field or operator, or a value of another kind than the column's.

    Example:
        >>> where("metadata.equipment", "==", 'a "heavy" bar')
        'metadata["equipment"] == "a \\"heavy\\" bar"'
    """
    if operator not in _OPERATORS:
        known = " ".join(_OPERATORS[:-2])
        raise ArgumentError(f"no operator {operator!r}: use one of {known}, in, or not in")
    if operator in ("in", "not in"):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ArgumentError(f"`{operator}` needs a list of values, not {value!r}")
        return _checked(f"{_place(field)} {operator} {listed(value)}")
    return _checked(f"{_place(field)} {operator} {literal(value)}")


def between(field: str, least: Value | None, most: Value | None) -> str:
    """Build a filter for `least <= field <= most`; None leaves that end open.

    Raises:
        ArgumentError: As `where`.
    """
    return all_of(
        *([] if least is None else [where(field, ">=", least)]),
        *([] if most is None else [where(field, "<=", most)]),
    )


def taken(*, since: date | None = None, until: date | None = None) -> str:
    """Build a filter for images taken from `since` to the end of `until`.

    A day spans its first to its last second, by the clock at the place of each image. Images of
    unknown time are excluded.

    Raises:
        ArgumentError: `until` is before `since`, or a time has a zone.
    """
    first = None if since is None else _seconds(since, time.min)
    last = None if until is None else _seconds(until, time.max)
    if first is not None and last is not None and last < first:
        raise ArgumentError(
            f"nothing is taken since {since} and until {until}: the end comes first"
        )
    return all_of(where(TIME, "!=", 0), between(TIME, first, last))


def has_any_tag(tags: Sequence[str], field: str = TAGS) -> str:
    """Build a filter for records with at least one of these tags; no tags keep no record.

    `field` may be a list in the metadata instead, such as `metadata.people`.
    """
    return _tagged("any", tags, field)


def has_all_tags(tags: Sequence[str], field: str = TAGS) -> str:
    """Build a filter for records with all of these tags, as `has_any_tag`; no tags keep all."""
    return _tagged("all", tags, field)


def all_of(*filters: str) -> str:
    """Combine filters with `and`; an empty filter keeps all records.

    Raises:
        ArgumentError: A filter cannot be parsed.
    """
    return _joined([filter for filter in filters if filter.strip()], "and") or _EVERYTHING


def any_of(*filters: str) -> str:
    """Combine filters with `or`; no filters keep no record.

    Raises:
        ArgumentError: A filter is empty or cannot be parsed.
    """
    if not all(filter.strip() for filter in filters):
        raise ArgumentError("an empty filter keeps everything, so `any_of` would keep everything")
    return _joined(filters, "or") or _NOTHING


def negate(filter: str) -> str:
    """Negate a filter: keep exactly the records that it excludes.

    Raises:
        ArgumentError: The filter is empty or cannot be parsed.
    """
    if not filter.strip():
        raise ArgumentError("an empty filter keeps everything, and its negation nothing")
    return f"not ({_checked(filter)})"


def _place(field: str) -> str:
    """Print a column or `metadata.KEY`."""
    key = field.removeprefix(f"{METADATA}.")
    if key != field:
        return f"{METADATA}[{quoted(key)}]"
    if field in COLUMNS:
        return field
    raise ArgumentError(
        f"no filter on {field!r}: fields are {', '.join(COLUMNS[:-1])} and {METADATA}.KEY"
    )


def _tagged(which: str, tags: Sequence[str], field: str) -> str:
    if isinstance(tags, str):
        raise ArgumentError(f"{field} are a list of texts, not the text {tags!r}")
    return _checked(f"array_contains_{which}({_place(field)}, {listed(tags)})")


def _joined(filters: Sequence[str], word: str) -> str:
    if len(filters) == 1:
        return _checked(filters[0])
    return f" {word} ".join(f"({_checked(filter)})" for filter in filters)


def _checked(filter: str) -> str:
    """Return a filter that can be parsed; an open quote or parenthesis would change the rest."""
    parse(filter)
    return filter


def _seconds(day: date, of_day: time) -> int:
    if not isinstance(day, datetime):
        day = datetime.combine(day, of_day, UTC)
    elif day.tzinfo:
        local = day.replace(tzinfo=None).isoformat()
        raise ArgumentError(
            f"a time is compared with the clock at the place of each image, so it must be without "
            f"a zone, such as {local}, got {day.isoformat()}"
        )
    # Floor: the last moment of a day is before the next day, also before 1970.
    return math.floor(day.replace(tzinfo=UTC).timestamp())
