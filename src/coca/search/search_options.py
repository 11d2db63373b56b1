"""Search options, declared once: keywords in Python, options of commands, fields of requests.

`SearchOptions` are those of a search by vectors, of a `Collection` or an `InMemoryIndex`;
`QueryOptions` add those of a query that a `SearchEngine` embeds, fuses, reranks and marks. This
module imports no NumPy, since its options are those of commands.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from annotated_types import Ge, Gt, Interval

from coca.core.config.frozen_config import Config, Fraction
from coca.core.errors import ArgumentError, check_options
from coca.search.index_params.index_types import MAX_RESULTS

if TYPE_CHECKING:
    from coca.search.records import Hit

Side: TypeAlias = Literal["image", "text"]
"""Vector field of a record: the image vector, or the caption vector (`text`)."""

GroupBy: TypeAlias = Literal["album"]
"""Field by which hits are grouped: only the best hit of each group is returned."""

CaptionChoice: TypeAlias = Literal["all", "given"]
"""Captions that count: all, or only those that people gave."""

S = TypeVar("S", bound="SearchOptions")

INTERFACE_NAMES: Mapping[str, str] = {"k": "limit"}
"""Names of options in commands and requests, where Python has another."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Config):
    """Options of every search, of a `Collection` and of an `InMemoryIndex`.

    Searches take the fields as keywords.

    Raises:
        ArgumentError: A value has the wrong type or is out of range.
    """

    range_error: ClassVar = ArgumentError
    checks_types: ClassVar = True

    k: Annotated[int, Ge(1)] = 10
    """Maximum number of hits of a query."""
    filter: str = ""
    """Milvus filter expression; `where` builds one safely."""
    offset: Annotated[int, Ge(0)] = 0
    """Number of best hits to skip, for paging."""
    min_score: Annotated[float, Interval(ge=-1, le=1)] | None = None
    """Minimum cosine of a hit. Default: none."""
    on: Side = "image"
    """Vector field to search: of the images, or of their captions (text). Records without a caption
    vector are excluded from searches of captions."""
    group_by: GroupBy | None = None
    """`album` returns only the best image of each album or video; an image without an album is its
    own group. Default: no grouping."""
    effort: Annotated[float, Gt(0)] = 1.0
    """Search width of the index, relative to the default 1: more increases recall and latency. An
    exact search does not use it."""
    params: Mapping[str, Any] | None = None
    """Search parameters by their Milvus names, such as `{"ef": 200}`; they override those of
    `effort`."""

    @classmethod
    def of(cls: type[S], **options: Any) -> S:
        """Build the options from the keywords of a call.

        Raises:
            ConfigError: An option is unknown, has the wrong type or is out of range.
        """
        check_options(options, [field.name for field in fields(cls)], of="search")
        return cls(**options)

    def by_vector(self, **changes: Any) -> dict[str, Any]:
        """Return the keywords of a search by vectors with some changes."""
        return {each.name: getattr(self, each.name) for each in fields(SearchOptions)} | changes

    def check_page(self, most: int) -> None:
        """Check that the page is within the first `most` hits.

        Raises:
            ArgumentError: The sum of `k` and `offset` is above `most`.
        """
        if self.k + self.offset > most:
            raise ArgumentError(
                f"k and offset must add up to at most {most:,}, got {self.k:,} and {self.offset:,}"
            )

    def keep_similar(self, answers: list[list["Hit"]]) -> list[list["Hit"]]:
        """Remove hits whose score is below `min_score`."""
        least = self.min_score
        if least is None:
            return answers
        return [[hit for hit in hits if hit.score >= least] for hits in answers]


@dataclass(frozen=True, kw_only=True)
class Fusion(Config):
    """Configuration of the fusion of rankings by images, by vectors of captions, and by BM25."""

    method: Literal["rrf", "scores"] = "scores"
    """`scores` adds scores that are min-max-normalized to 0 to 1 in each ranking. `rrf` adds
    1 / (constant + rank) (reciprocal rank fusion, Cormack et al. 2009): it knows no distances, so a
    caption that equals the query can rank below images that are mediocre in all rankings."""
    text_weight: Fraction = 0.75
    """Weight of the captions in a hybrid search, which it implies; the images have the rest."""
    vector_share: Fraction = 0.5
    """Fraction of `text_weight` that the ranking by vectors of captions has, which finds synonyms;
    BM25, which finds names and rare words, has the rest. 0: BM25 alone."""
    uncaptioned: Fraction = 0.6
    """Factor of the score by image that replaces the scores by caption where no caption counts. At
    0 an image without a caption is below all that have one; at 1 it is above most of them."""
    captions: CaptionChoice = "all"
    """Captions that count: all, or only those that people gave. A caption that the model wrote has
    little that the image's vector lacks."""
    constant: Annotated[int, Ge(1)] = 60
    """For `rrf`: the larger, the smaller the lead of the first ranks; 60 as in the paper."""

    def counts(self, hit: "Hit") -> bool:
        """Return whether a hit has a caption that counts."""
        return bool(hit.caption) and (self.captions == "all" or hit.caption_source == "given")


@dataclass(frozen=True, kw_only=True)
class QueryOptions(SearchOptions):
    """Options of a query of a `SearchEngine`: those of every search, and how hits are ranked.

    Raises:
        ArgumentError: A value has the wrong type or is out of range, or `hybrid` is false with a
            `fusion`.
    """

    hybrid: bool | None = None
    """Whether to fuse the ranking by image with those by vectors and words (BM25) of all captions.
    Default: a query of texts is fused with the captions that people gave, not those of the model,
    in a collection of less than 50,000 records."""
    fusion: Fusion | None = None
    """Fusion of the rankings, which implies `hybrid`. Default: `Fusion()`."""
    rerank: Annotated[int, Interval(ge=0, le=MAX_RESULTS)] = 0
    """Number of first hits to rerank by the rank score: logit scale x cosine + log likelihood of
    the text, given the image. 0: no reranking."""
    match: bool = True
    """Mark the first 32 hits of a query of one text by their match probability, where the
    collection is calibrated (`coca collection calibrate`). This reads their images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fusion is not None and self.hybrid is False:
            raise ArgumentError(
                f"fusion ({self.fusion.method}, text_weight {self.fusion.text_weight:g}) is of "
                "hybrid searches, got hybrid false"
            )


def check_text(text: str) -> None:
    """Validate a query text.

    Raises:
        SearchError: It is not a string, or empty.
    """
    if not isinstance(text, str):
        raise ArgumentError(
            f"the text to search for is {text!r}, and no words; several texts are several terms"
        )
    if not text.strip():
        raise ArgumentError("the text to search for is empty")
