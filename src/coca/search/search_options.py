"""Options of searches, declared once: keywords in Python, options of commands, fields of requests.

`SearchOptions` are those of a search by vectors, of a `coca.search.store.Collection`;
`QueryOptions` add those of a query that a `SearchEngine` embeds, fuses and reranks. This module
imports no NumPy, since its options are those of commands.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from coca.core.config.frozen_config import Config, Fraction
from coca.core.errors import ArgumentError, ConfigError

if TYPE_CHECKING:
    from coca.search.records import Hit

Side: TypeAlias = Literal["image", "text"]
"""Vector field of a record: the image vector, or the caption vector (`text`)."""

GroupBy: TypeAlias = Literal["image", "album", "path"]
"""Groups of hits, of which only the best hit is returned: records of the same image, or of the same
album; `path` returns every record."""

GroupHitsBy: TypeAlias = Literal["image", "video", "album", "path"]
"""Groups of hits of a `SearchEngine`: those of a collection, and `video`, records of the same image
or frames of the same video."""

SortBy: TypeAlias = Literal["score", "newest", "oldest"]
"""Order of hits: best first, or the likely hits by their time."""

CaptionChoice: TypeAlias = Literal["all", "given"]
"""Captions that count: all, or only those that people gave."""

RankWeight: TypeAlias = Annotated[float, Field(ge=0, le=10)]
"""Weight of a part of the ranking."""

MAX_RESULTS = 16_384
"""Maximum `offset + limit`: the limit of a Milvus server, applied to all stores."""


class SearchOptions(Config):
    """Options of every search; searches of a `SearchEngine` take the fields as keywords.

    Raises:
        ArgumentError: A value has the wrong type or is out of range.
    """

    range_error: ClassVar = ArgumentError

    limit: Annotated[int, Field(ge=1)] = 10
    """Maximum number of hits of a query."""
    filter: str = ""
    """Filter expression, see `coca.search.filters`; `where` builds one safely."""
    offset: Annotated[int, Field(ge=0)] = 0
    """Number of best hits to skip, for paging."""
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Minimum cosine of a hit. Default: none."""
    on: Side = "image"
    """Vector field to search: of the images, or of their captions (text). Records without a caption
    vector are excluded from searches of captions."""
    group_by: GroupBy = "image"
    """`image` returns each image once, however many copies there are; `album` only the best image
    of each album or video, and images without an album once; `path` every record."""
    effort: Annotated[float, Field(gt=0)] = 1.0
    """Search width of the index, relative to the default 1: more increases recall and latency. An
    exact search does not use it."""
    params: Mapping[str, Any] | None = None
    """Search parameters by their Milvus names, such as `{"ef": 200}`; they override those of
    `effort`."""

    def check_page(self, most: int) -> None:
        """Check that the page is within the first `most` hits."""
        if self.limit + self.offset > most:
            raise ArgumentError(
                f"limit and offset must add up to at most {most:,}, got {self.limit:,} and "
                f"{self.offset:,}"
            )

    def keep_similar(self, answers: list[list["Hit"]]) -> list[list["Hit"]]:
        """Remove hits whose score is below `min_score`."""
        least = self.min_score
        if least is None:
            return answers
        return [[hit for hit in hits if hit.score >= least] for hits in answers]


class Ranking(Config):
    """Weights of the ranking of typed queries, a sum in which every part can only add.

    The score of a record is `image_weight` x the cosine of query and image, plus `caption_weight` x
    what the cosine of query and caption exceeds of the cosines of the query with texts in general,
    plus `words_weight` x b / (b + 12), where b is the BM25 of the query's terms in caption, tags
    and names, plus `text_weight` x the match of labels and texts; see `coca.search.ranking`.
    """

    range_error: ClassVar = ArgumentError

    image_weight: RankWeight = 1.0
    """Weight of the cosine of query and image."""
    caption_weight: RankWeight = 1.2
    """Weight of the cosine of query and a caption that people gave, which finds synonyms."""
    words_weight: RankWeight = 0.3
    """Weight of the terms of captions, tags and names, which find rare words: the part of a record
    of infinite BM25."""
    text_weight: RankWeight = 0.6
    """Weight of labels and texts: the part of an image whose labels, caption or text inside have
    all terms of the query, or that has a person, place, album or year that the query names."""
    captions: CaptionChoice = "given"
    """Captions whose terms count: all, or only those that people gave. A caption that the model
    wrote has little that the image's vector lacks; its vector never counts."""


class QueryOptions(SearchOptions):
    """Options of a query of a `SearchEngine`: those of every search, and how hits are ranked.

    Raises:
        ArgumentError: A value has the wrong type or is out of range, or `hybrid` is false with a
            `ranking`.
    """

    group_by: GroupHitsBy = "image"  # type: ignore[assignment]
    """`image` returns each image once, however many copies there are; `video` also each video, by
    its best frame; `album` only the best image of each album or video, and images without an album
    once; `path` every record."""
    hybrid: bool | None = None
    """Whether captions and their words count for the ranking: all captions if true, none if false.
    Default: the captions that people gave, if the query has a text."""
    ranking: Ranking | None = None
    """Weights of the ranking, which imply `hybrid`. Default: `Ranking()`."""
    rerank: Annotated[int, Field(ge=0, le=MAX_RESULTS)] = 0
    """Number of first hits to rerank by the rank score: logit scale x cosine + log likelihood of
    the text, given the image. 0: no reranking."""
    likely: bool = False
    """Only hits that probably show the query, or have all its words."""
    sort: SortBy = "score"
    """`newest` and `oldest` sort the likely hits by time, those without a time last; without a line
    between likely and unlikely hits, the first 200 hits."""

    @model_validator(mode="after")
    def _check_rules(self) -> "QueryOptions":
        if self.rerank and self.sort != "score":
            raise ArgumentError(
                f"sort {self.sort} orders hits by time, and rerank {self.rerank} by the model: "
                "leave one of them out"
            )
        if self.ranking is not None and self.hybrid is False:
            raise ArgumentError(
                f"a ranking (captions {self.ranking.captions}) is of hybrid searches, got hybrid "
                "false"
            )
        return self


class RecommendOptions(SearchOptions):
    """Options of recommendations; `coca.search.mining.recommend` takes the fields as keywords.

    Raises:
        ArgumentError: A value has the wrong type or is out of range.
    """

    diversity: Fraction = 0.3
    """Weight of diversity in maximal marginal relevance. At 0 hits often are near-duplicates of
    each other, such as a series of shots."""


class Choice(Config):
    """Options of a selection of images for training: count, thresholds and diversity.

    Raises:
        ConfigError: A value is out of range, or not just one of `count` and `fraction` is given.
    """

    count: Annotated[int, Field(ge=1)] | None = None
    """Number of images to select."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Fraction of the images to select; instead of `count`."""
    min_score: Annotated[float, Field(ge=-1)] | None = None
    """Minimum score of a selected image: a cosine, or an entropy in nats."""
    diverse: bool = False
    """Select by greedy k-center among the best: no image is far from a selected image."""
    pool: Annotated[int, Field(ge=1)] = 4
    """Candidates for each selected image, with `diverse` and scores."""
    max_similarity: Annotated[float, Field(gt=0, le=1)] | None = None
    """Skip near-duplicates: maximum cosine similarity of two selected images."""

    @model_validator(mode="after")
    def _check_rules(self) -> "Choice":
        if (self.count is None) == (self.fraction is None):
            raise ConfigError("give the number of images by either count or fraction")
        return self


class PhotoFilter(Config):
    """When and where photos were taken; all that is given must hold.

    Raises:
        ArgumentError: A date, place or distance cannot be read.
        MissingExtraError: A city is given, and the extra `places` is not installed.
    """

    range_error: ClassVar = ArgumentError

    since: str = ""
    """Only images taken since the beginning of a day or period, such as 2024-06-01, 2021, May 2021,
    summer 2019, last month, 3 days ago; or since a time, such as 2024-06-01T18:30."""
    until: str = ""
    """Only images taken until the end of a day or period."""
    during: str = ""
    """Only images taken within a day or period."""
    near: str = ""
    """Only photos taken near a city, such as Lisbon or "Springfield, US" (extra `places`), or near
    latitude and longitude, such as 38.72,-9.14."""
    within: str = ""
    """Largest distance from `near`, such as 500m, 20km or 12mi; default: 20km."""

    @model_validator(mode="after")
    def _check_rules(self) -> "PhotoFilter":
        if self.within and not self.near:
            raise ArgumentError(f"within is a distance from near, and {self.within!r} has no near")
        self.conditions()
        return self

    def conditions(self) -> list[str]:
        """Return the filters; none if nothing is given."""
        # Imported here, as NumPy is not an import of commands.
        from coca.search.filters import taken
        from coca.search.photo_filter import find_place, near, parse_distance, parse_period

        conditions = []
        for since, until in ((self.since, self.until), (self.during, self.during)):
            if since or until:
                first = parse_period(since)[0] if since else None
                last = parse_period(until)[1] if until else None
                conditions.append(taken(since=first, until=last))
        if self.near:
            distance_km = parse_distance(self.within or "20km")
            conditions.append(near(*find_place(self.near), within_km=distance_km))
        return conditions


def check_text(text: str) -> None:
    """Validate a query text."""
    if not isinstance(text, str):
        raise ArgumentError(
            f"text must be a str, got {type(text).__name__}; an image is image=..., and several "
            "texts are several terms, or search_batch"
        )
    if not text.strip():
        raise ArgumentError("the text to search for is empty")
