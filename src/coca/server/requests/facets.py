"""Facets: counts of the values of fields, and a histogram of capture times."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Literal

from coca.core.errors import ArgumentError
from coca.search.records import METADATA
from coca.server.collections.catalog import Entry
from coca.server.schemas.mining import Facet, FacetValue, Histogram, HistogramBucket
from coca.server.schemas.shared import Value

_COLUMNS = ("tags", "album", "caption_source")
_FEW = 50
"""Maximum number of values of a metadata field that is counted without being named."""
_MAX_DAYS, _MAX_MONTHS = 92, 120

Interval = Literal["year", "month", "day"]


def count_facets(items: Sequence[Entry], fields: Sequence[str] | None, limit: int) -> list[Facet]:
    """Count the values of fields.

    Args:
        items: Items to count.
        fields: Names of fields; None: the columns, and metadata fields with few values.
        limit: Maximum number of values of a field.

    Raises:
        ArgumentError: A field has no facets.
    """
    for name in fields or ():
        if name not in _COLUMNS and not name.startswith(f"{METADATA}."):
            raise ArgumentError(
                f"facets are of {', '.join(_COLUMNS)} and {METADATA}.KEY, got {name!r}"
            )
    counts: dict[str, Counter[Value]] = {}
    for (field, value), count in Counter(chain.from_iterable(it.values for it in items)).items():
        counts.setdefault(field, Counter())[value] = count
    # `dict` keeps each field of an item once.
    known = Counter(chain.from_iterable(dict(it.values) for it in items))
    wanted = dict.fromkeys((*_COLUMNS, *counts)) if fields is None else fields
    facets = [
        _facet(name, counts.get(name, Counter()), limit, missing=len(items) - known[name])
        for name in wanted
    ]
    if fields is not None:
        return facets
    return [one for one in facets if one.values and len(one.values) + one.others <= _FEW]


def histogram(
    items: Sequence[Entry], interval: Literal["auto", "year", "month", "day"]
) -> Histogram:
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


def _facet(field: str, counts: Counter[Value], limit: int, *, missing: int) -> Facet:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return Facet(
        field=field,
        values=[FacetValue(value=value, count=count) for value, count in ordered[:limit]],
        others=max(0, len(ordered) - limit),
        missing=missing,
    )


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
