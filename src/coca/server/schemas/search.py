"""Bodies of `/v1/search`."""

from typing import Annotated, Literal

from pydantic import Field

from coca.server.schemas.items import Item
from coca.server.schemas.shared import (
    MAX_EXAMPLES,
    Body,
    Example,
    Fraction,
    ImageReference,
    Limit,
    Offset,
    Scope,
    Side,
    Text,
)


class SearchRequest(Scope, ImageReference):
    """A query by text, image, item or examples; without any, all items, newest first."""

    text: Text | None = None
    weight: Annotated[float, Field(gt=0, le=10, description="Weight of `text`.")] = 1.0
    positive: Annotated[list[Example], Field(max_length=MAX_EXAMPLES)] = []
    negative: Annotated[list[Example], Field(max_length=MAX_EXAMPLES)] = []
    hybrid: Annotated[
        bool | None,
        Field(
            description="Whether to fuse the ranking by image with those by vectors and words of "
            "all captions. null: a query of texts is fused with the captions that people gave, in "
            "a collection of less than 50,000 items, as in `coca search`."
        ),
    ] = None
    text_weight: Annotated[
        Fraction | None,
        Field(
            description="Weight of captions in a hybrid search; null: 0.75. It implies `hybrid`."
        ),
    ] = None
    rerank: Annotated[
        int,
        Field(ge=0, le=256, description="Number of first hits to rerank by caption likelihood."),
    ] = 0
    on: Side = "image"
    group_by: Literal["album"] | None = None
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    limit: Limit = 50
    offset: Offset = 0


class Hit(Item):
    """An item found by a query."""

    score: float | None
    """Cosine of query and image, or of query and caption; null where nothing was compared."""
    bm25: float | None = None
    """BM25 of the query's words in the caption, in a hybrid search; null where it has none."""
    fused_score: float | None = None
    """Sort key of a hybrid search: both rankings fused."""
    rank_score: float | None = None
    """Sort key of reranked hits and of recommendations."""
    log_likelihood: float | None = None
    """log p(text | image) in nats, of reranked hits."""
    match_probability: float | None = None
    """Calibrated probability that the hit matches; null without a calibration."""
    is_match: bool | None = None
    """Whether the hit is above the threshold of the collection; null without a calibration."""


class SearchResponse(Body):
    """Hits, best first."""

    collection: str
    hits: list[Hit]
    limit: int
    offset: int
    total: int | None
    """Number of items that the filters keep; null if it was not counted."""
    nothing_matches: bool | None = None
    """Whether no item matches the query; null without a calibration."""
    threshold: float | None = None
    """Threshold of `match_probability`; null without a calibration."""
    took_ms: float = 0.0
    """Time of the service for this request, in milliseconds."""
