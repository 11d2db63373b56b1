"""Facets: counts of the values of fields, and a histogram of capture times."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from coca.core.errors import ArgumentError
from coca.search.records import METADATA, Hit
from coca.server.schemas.mining import Facet, FacetValue, Histogram, HistogramBucket
from coca.server.schemas.shared import Value

_COLUMNS = ("tags", "album", "caption_source")
_FEW = 50
"""Maximum number of values of a metadata field that is counted without being named."""
_MAX_DAYS, _MAX_MONTHS = 92, 120

Interval = Literal["year", "month", "day"]


def count_facets(items: Sequence[Hit], fields: Sequence[str] | None, limit: int) -> list[Facet]:
    """Count the values of fields.

    Args:
        items: Items to count.
        fields: Names of fields; None: the columns, and metadata fields with few values.
        limit: Maximum number of values of a field.

    Raises:
        ArgumentError: A field has no facets.
    """
    if fields is None:
        names = dict.fromkeys(
            f"{METADATA}.{key}" for item in items for key in item.metadata if key != "captions"
        )
        facets = [_facet(items, name, limit) for name in (*_COLUMNS, *names)]
        return [one for one in facets if one.values and len(one.values) + one.others <= _FEW]
    for name in fields:
        if name not in _COLUMNS and not name.startswith(f"{METADATA}."):
            raise ArgumentError(
                f"facets are of {', '.join(_COLUMNS)} and {METADATA}.KEY, got {name!r}"
            )
    return [_facet(items, name, limit) for name in fields]


def histogram(items: Sequence[Hit], interval: Literal["auto", "year", "month", "day"]) -> Histogram:
    """Count items by time of capture, in UTC; `auto` chooses the interval by the time span."""
    times = [taken for item in items if (taken := _datetime(item.time)) is not None]
    chosen: Interval = _interval(times) if interval == "auto" else interval
    counts = Counter(_start(taken, chosen) for taken in times)
    buckets = [
        HistogramBucket(
            start=int(start.timestamp()),
            end=int(_next(start, chosen).timestamp()),
            label=start.strftime({"year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d"}[chosen]),
            count=count,
        )
        for start, count in sorted(counts.items())
    ]
    return Histogram(interval=chosen, buckets=buckets, unknown=len(items) - len(times))


def _facet(items: Sequence[Hit], field: str, limit: int) -> Facet:
    counts: Counter[Value] = Counter()
    missing = 0
    for item in items:
        values = set(_values(item, field))
        counts.update(values)
        missing += not values
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return Facet(
        field=field,
        values=[FacetValue(value=value, count=count) for value, count in ordered[:limit]],
        others=max(0, len(ordered) - limit),
        missing=missing,
    )


def _values(item: Hit, field: str) -> Iterator[Value]:
    value: Any = (
        item.metadata.get(field.removeprefix(f"{METADATA}."))
        if field.startswith(f"{METADATA}.")
        else getattr(item, field)
    )
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, str | int | float) and one != "":
            yield one


def _datetime(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (OverflowError, OSError, ValueError):
        return None


def _interval(times: Sequence[datetime]) -> Interval:
    days = (max(times) - min(times)).days if times else 0
    if days <= _MAX_DAYS:
        return "day"
    return "month" if days <= _MAX_MONTHS * 31 else "year"


def _start(taken: datetime, interval: Interval) -> datetime:
    day = taken.day if interval == "day" else 1
    month = 1 if interval == "year" else taken.month
    return datetime(taken.year, month, day, tzinfo=UTC)


def _next(start: datetime, interval: Interval) -> datetime:
    if interval == "day":
        return datetime.fromtimestamp(start.timestamp() + 86_400, UTC)
    if interval == "year" or start.month == 12:
        return start.replace(year=min(start.year + 1, 9_999), month=1)
    return start.replace(month=start.month + 1)
