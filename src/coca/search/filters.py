"""Filter expressions of Milvus, with values quoted against injection.

    all_of(where("metadata.year", ">", 2020), negate(has_any_tag(["draft", "private"])))

Lite and old servers take no filter parameters, so values are quoted here. Versions also differ in
`not` where a metadata key is missing or of another type. So each expression carries its own
negation. A filter keeps the same records everywhere: those for which the Python comparison is true.
"""

import ast
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, time
from typing import TypeAlias, get_args

from coca.core.errors import ArgumentError
from coca.search.records import (
    ALBUM,
    CAPTION,
    CAPTION_SOURCE,
    HEIGHT,
    HIDDEN,
    ID,
    METADATA,
    ORIGIN,
    PATH,
    TAGS,
    TIME,
    TRASHED,
    WIDTH,
    CaptionSource,
)

Value: TypeAlias = str | int | float | bool

_TEXTS = (ID, PATH, CAPTION, ALBUM)
_NUMBERS = (WIDTH, HEIGHT, TIME)
_OPPOSITES = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^'\\]|\\.)*'", re.DOTALL)
_NAME = re.compile(r"[^\W\d]\w*")
_LARGEST = 2**63 - 1
_CAPTION_SOURCE = re.compile(
    rf"{_STRING.pattern}|\b{CAPTION_SOURCE}\b"
    rf"(?:\s*(?P<operator>==|!=|not\s+in\b|in\b)\s*(?P<value>{_STRING.pattern}|\[[^\]]*\]))?",
    re.DOTALL,
)


class Filter(str):
    """Expression of Milvus with its negation, which keeps exactly the other records."""

    opposite: str

    def __reduce__(self) -> tuple[type["Filter"], tuple[str, str]]:
        """Pickle the expression together with its negation."""
        return Filter, (str(self), self.opposite)

    def __new__(cls, text: str, opposite: str) -> "Filter":
        """Pair both expressions; use `where` and the other builders instead."""
        made = super().__new__(cls, text)
        made.opposite = opposite
        return made


def where(field: str, operator: str, value: Value | Sequence[Value]) -> Filter:
    r"""Build a filter that compares one field with a value; any value is safe.

    Raises:
        SearchError: Unknown field or operator, or a value that a filter cannot express.

    Example:
        >>> where("metadata.equipment", "==", 'a "heavy" bar')
        'metadata["equipment"] == "a \\"heavy\\" bar"'
    """
    key = field.removeprefix(f"{METADATA}.")
    if key == field and field not in (*_TEXTS, *_NUMBERS, CAPTION_SOURCE):
        raise ArgumentError(
            f"no filter on {field!r}: fields are "
            f"{', '.join((*_TEXTS, *_NUMBERS, CAPTION_SOURCE))} and "
            f"{METADATA}.KEY; tags and lists in the metadata have has_any_tag and has_all_tags"
        )
    compare: Callable[[str, str, object], Filter]
    compare = _compare_column if key == field else _compare_key
    if field == CAPTION_SOURCE:
        compare = _compare_source
    if operator in ("in", "not in"):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ArgumentError(f"`{operator}` needs a list of values, not {value!r}")
        found = _in(field, key, value, compare)
        return found if operator == "in" else negate(found)
    if operator not in _OPPOSITES:
        known = " ".join(_OPPOSITES)
        raise ArgumentError(f"no operator {operator!r}: use one of {known}, in, or not in")
    return compare(key, operator, value)


def between(field: str, least: Value | None, most: Value | None) -> Filter:
    """Build a filter for `least <= field <= most`; None leaves that end open.

    Raises:
        SearchError: As `where`.
    """
    return all_of(
        *([] if least is None else [where(field, ">=", least)]),
        *([] if most is None else [where(field, "<=", most)]),
    )


def taken(*, since: date | None = None, until: date | None = None) -> Filter:
    """Build a filter for images taken from `since` to the end of `until`.

    A day spans its first to its last second, by the clock at the place of each image. Images of
    unknown time are excluded.

    Raises:
        SearchError: `until` is before `since`, or a time has a zone.
    """
    first = None if since is None else _seconds(since, time.min)
    last = None if until is None else _seconds(until, time.max)
    if first is not None and last is not None and last < first:
        raise ArgumentError(
            f"nothing is taken since {since} and until {until}: the end comes first"
        )
    return all_of(where(TIME, "!=", 0), between(TIME, first, last))


def has_any_tag(tags: Sequence[str], field: str = TAGS) -> Filter:
    """Build a filter for records with at least one of these tags; no tags keep no record.

    `field` may be a list in the metadata instead, such as `metadata.people`.
    """
    return _tagged("contains_any", tags, field) if tags else negate(_everything())


def has_all_tags(tags: Sequence[str], field: str = TAGS) -> Filter:
    """Build a filter for records with all of these tags, as `has_any_tag`; no tags keep all."""
    return _tagged("contains_all", tags, field) if tags else _everything()


def all_of(*filters: str) -> Filter:
    """Combine filters with `and`; an empty filter keeps all records.

    Raises:
        SearchError: An expression has an open quote or parenthesis.
    """
    return _join([one for one in filters if one], "and") if any(filters) else _everything()


def any_of(*filters: str) -> Filter:
    """Combine filters with `or`; no filters keep no record."""
    if not all(filters):
        raise ArgumentError("an empty filter keeps everything, so `any_of` would keep everything")
    return _join(filters, "or") if filters else negate(_everything())


def negate(filter: str) -> Filter:
    """Negate a filter: keep exactly the records that it excludes.

    For an expression not built here, Lite still excludes records without the key.

    Raises:
        SearchError: The expression is empty, or has an open quote or parenthesis.
    """
    if not filter:
        raise ArgumentError("an empty filter keeps everything, and its opposite nothing")
    return Filter(_opposite(filter), str(filter))


def with_ids(ids: Iterable[str]) -> str:
    """Build the expression for records with these ids; any id is safe."""
    return f"{ID} in [{', '.join(map(quoted, ids))}]"


def expanded(filter: str) -> str:
    """Expand comparisons of `caption_source`, which is not a column, into stored columns."""
    if not isinstance(filter, str):
        raise ArgumentError(f"the filter must be a str such as 'width > 100', got {filter!r}")
    if CAPTION_SOURCE not in filter:
        return filter
    return _CAPTION_SOURCE.sub(_expanded_source, filter)


def names_in(filter: str) -> set[str]:
    """List the columns, functions and keywords of a filter: all words outside of its texts."""
    return set(_NAME.findall(_STRING.sub(" ", filter)))


def quoted(text: str) -> str:
    """Quote text as a literal of a filter."""
    return f'"{text.translate(_ESCAPES)}"'


def _compare_column(column: str, operator: str, value: object) -> Filter:
    text = column in _TEXTS
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (isinstance(value, str) if text else whole):
        kind = "text" if text else "whole numbers"
        raise ArgumentError(f"{column} is compared with {kind}, not with {value!r}")
    literal = _literal(value)
    return Filter(f"{column} {operator} {literal}", f"{column} {_OPPOSITES[operator]} {literal}")


def _compare_key(key: str, operator: str, value: object) -> Filter:
    path, literal = f"{METADATA}[{quoted(key)}]", _literal(value)
    text = f"{path} {operator} {literal}"
    missing = f"not (exists {path})"
    if operator in ("==", "!="):
        # On Lite a comparison with a missing key is neither true nor false, also after `not`.
        equal, differs = f"{path} == {literal}", f"({missing} or {path} != {literal})"
        return Filter(equal, differs) if operator == "==" else Filter(differs, equal)
    if isinstance(value, bool):
        raise ArgumentError(f"true and false have no order: {key!r} {operator} {literal}")
    # The same holds for text against a number. `like "%"` is true for every text.
    other_kind = f'{path} like "%"' if not isinstance(value, str) else f'not ({path} like "%")'
    return Filter(text, f"({missing} or {other_kind} or not ({text}))")


def _compare_source(field: str, operator: str, value: object) -> Filter:
    if value not in get_args(CaptionSource) or operator not in ("==", "!="):
        raise ArgumentError(
            f'{field} is compared by ==, !=, in and not in with "given", "model" or "", '
            f"got {operator} {value!r}"
        )
    if value == "":
        return _compare_column(CAPTION, operator, "")
    written = f'{ORIGIN}["captioned"]'
    by_model = value == "model"
    same, other = (f"{written} == {_literal(one)}" for one in (by_model, not by_model))
    equal = _join([Filter(same, other), _compare_column(CAPTION, "!=", "")], "and")
    return equal if operator == "==" else negate(equal)


def _expanded_source(found: re.Match[str]) -> str:
    if not found.group().startswith(CAPTION_SOURCE):
        return found.group()  # a string literal
    operator, value = found["operator"], found["value"]
    if operator is None:
        raise ArgumentError(
            f"{CAPTION_SOURCE} in a filter is compared by ==, !=, in or not in, with "
            '"given", "model" or "" behind it'
        )
    try:
        parsed = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        raise ArgumentError(f"the filter compares {CAPTION_SOURCE} with {value}, no text") from None
    return f"({where(CAPTION_SOURCE, ' '.join(operator.split()), parsed)})"


def _in(
    field: str,
    key: str,
    values: Sequence[Value],
    compare: Callable[[str, str, object], Filter],
) -> Filter:
    either = [compare(key, "==", value) for value in values]
    if key != field or field == CAPTION_SOURCE:
        # Lite supports `in` for columns only.
        return any_of(*either)
    listed = f"[{', '.join(_literal(value) for value in values)}]"
    if not either:
        return negate(_everything())
    return Filter(f"{field} in {listed}", f"{field} not in {listed}")


def _tagged(function: str, tags: Sequence[str], field: str) -> Filter:
    if isinstance(tags, str):
        raise ArgumentError(f"{field} are a list of texts, not the text {tags!r}")
    listed = f"[{', '.join(map(quoted, tags))}]"
    if field == TAGS:
        call = f"array_{function}({TAGS}, {listed})"
        return Filter(call, f"not {call}")
    key = field.removeprefix(f"{METADATA}.")
    if key == field:
        raise ArgumentError(f"lists are {TAGS} and {METADATA}.KEY, got {field!r}")
    path = f"{METADATA}[{quoted(key)}]"
    call = f"json_{function}({path}, {listed})"
    return Filter(call, f"(not (exists {path}) or not {call})")


def _everything() -> Filter:
    return Filter(f'{ID} != ""', f'{ID} == ""')


def _join(filters: Sequence[str], word: str) -> Filter:
    if len(filters) == 1:
        return Filter(_whole(filters[0]), _opposite(filters[0]))
    other = {"and": "or", "or": "and"}[word]
    return Filter(
        f" {word} ".join(f"({_whole(one)})" for one in filters),
        f" {other} ".join(f"({_opposite(one)})" for one in filters),
    )


def _opposite(filter: str) -> str:
    return filter.opposite if isinstance(filter, Filter) else f"not ({_whole(filter)})"


def _whole(filter: str) -> str:
    """Return the expression if its quotes and parentheses are balanced."""
    depth = 0
    for sign in re.sub(r"[^()\"']", "", _STRING.sub("", filter)):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth < 0 or sign in "\"'":
            break
    else:
        if depth == 0:
            return str(filter)
    raise ArgumentError(f"the filter {filter!r} has a quote or parenthesis without its partner")


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


def _literal(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value)
        case int() if abs(value) <= _LARGEST:
            return str(value)
        case int():
            raise ArgumentError(f"{value} is too large for a filter; at most {_LARGEST:,} fits")
        case float() if value - value == 0:  # finite
            return repr(value)
    raise ArgumentError(f"a filter compares text, numbers and truth values, not {value!r}")


IS_HIDDEN = any_of(
    where(f"{METADATA}.{HIDDEN}", "==", True), where(f"{METADATA}.{TRASHED}", ">", 0)
)
"""Filter for hidden records."""
NOT_HIDDEN = negate(IS_HIDDEN)
"""Filter for the records that searches find."""
