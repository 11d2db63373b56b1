"""Bodies of `/v1/recommend`, `/v1/duplicates` and `/v1/facets`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from coca.server.schemas.items import Item
from coca.server.schemas.shared import (
    MAX_EXAMPLES,
    MAX_LIMIT,
    Body,
    CollectionName,
    Example,
    Fraction,
    ItemId,
    Limit,
    Scope,
    Side,
    Value,
)


class RecommendRequest(Scope):
    """Examples of wanted and unwanted items."""

    max_bytes: ClassVar[int | None] = None

    positive: Annotated[list[Example], Field(min_length=1, max_length=MAX_EXAMPLES)]
    negative: Annotated[list[Example], Field(max_length=MAX_EXAMPLES)] = []
    seen: Annotated[list[ItemId], Field(max_length=10_000)] = []
    """Ids to exclude."""
    diversity: Fraction = 0.3
    on: Side = "image"
    limit: Limit = 50


class DuplicatesRequest(Body):
    """Near-duplicates of a collection."""

    collection: CollectionName = None
    min_similarity: Annotated[float, Field(gt=0, le=1)] = 0.95
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 100
    """Maximum number of groups."""


class DuplicateGroup(Body):
    """Items that are near-duplicates of each other."""

    items: list[Item]


class DuplicatesResponse(Body):
    """Groups of near-duplicates, largest first."""

    collection: str
    groups: list[DuplicateGroup]
    total: int
    """Number of groups, of which the first `limit` are returned."""


class FacetsRequest(Scope):
    """Fields whose values are counted among the items that the filters keep."""

    fields: Annotated[list[Annotated[str, Field(max_length=255)]], Field(max_length=32)] | None = (
        None
    )
    """`tags`, `album`, `caption_source` or `metadata.KEY`; null: the fields with few values."""
    limit: Annotated[int, Field(ge=1, le=1_000)] = 20
    """Maximum number of values of a field."""
    histogram: Literal["auto", "year", "month", "day"] = "auto"


class FacetValue(Body):
    """A value and the number of items that have it."""

    value: Value
    count: int


class Facet(Body):
    """Values of a field, most frequent first."""

    field: str
    values: list[FacetValue]
    others: int
    """Number of further values."""
    missing: int
    """Number of items without the field."""


class HistogramBucket(Body):
    """Number of items taken from `start` until before `end`, in seconds since 1970."""

    start: int
    end: int
    label: str
    count: int


class Histogram(Body):
    """Items by time of capture; intervals without items are left out."""

    interval: Literal["year", "month", "day"]
    buckets: list[HistogramBucket]
    unknown: int
    """Number of items without a time of capture."""


class FacetsResponse(Body):
    """Counts of values, and the histogram of capture times."""

    collection: str
    total: int
    facets: list[Facet]
    histogram: Histogram
