"""Search options: page, filter, vector field, grouping and search width, declared once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, get_args

from coca.core.errors import ArgumentError, check_options
from coca.search.filters import check_filter
from coca.search.records import Hit

Side: TypeAlias = Literal["image", "text"]
"""Vector field of a record: the image vector, or the caption vector (`text`)."""

GroupBy: TypeAlias = Literal["album"]
"""Field by which hits are grouped: only the best hit of each group is returned."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of every search, of a `Collection` and of an `InMemoryIndex`.

    Searches take the fields as keywords.

    Raises:
        SearchError: A value has the wrong type or is out of range.
    """

    k: int = 10
    """Maximum number of hits per query."""
    filter: str = ""
    """Milvus filter expression; `where` builds one safely."""
    offset: int = 0
    """Number of best hits to skip, for paging."""
    min_score: float | None = None
    """Minimum cosine of a hit, -1 to 1; default: none."""
    on: Side = "image"
    """Vector field to search: `"image"` or `"text"` (captions). Records without a caption vector
    are excluded from searches of captions."""
    group_by: GroupBy | None = None
    """`"album"` returns only the best image of each album or video; an image without an album is
    its own group. Default: no grouping."""
    effort: float = 1.0
    """Search width of the index, relative to the default 1: more increases recall and latency. An
    exact search does not use it."""
    params: Mapping[str, Any] | None = None
    """Search parameters by their Milvus names, such as `{"ef": 200}`; they override those of
    `effort`."""

    def __post_init__(self) -> None:
        _check_whole(k=self.k, offset=self.offset)
        check_filter(self.filter)
        score = self.min_score
        if score is not None and (
            isinstance(score, bool) or not isinstance(score, Real) or score != score
        ):
            raise ArgumentError(f"min_score must be a number in [-1, 1], got {score!r}")
        if self.on not in get_args(Side):
            raise ArgumentError(f"the field to search must be image or text, got {self.on!r}")
        if self.group_by not in (None, *get_args(GroupBy)):
            raise ArgumentError(f'group_by must be "album" or None, got {self.group_by!r}')
        if not self.effort > 0:
            raise ArgumentError(f"effort must be above 0, got {self.effort}")

    @classmethod
    def of(cls, k: int = 10, **options: Unpack["SearchKeywords"]) -> "SearchOptions":
        """Build the options from the keywords of a call.

        Raises:
            SearchError: An option is unknown, has the wrong type or is out of range.
        """
        check_options(options, [field.name for field in fields(cls)], of="search")
        return cls(k=k, **options)

    def check_page(self, most: int) -> None:
        """Check that the page is within the first `most` hits.

        Raises:
            SearchError: `k` is below 1, `offset` is below 0, or their sum is above `most`.
        """
        check_page(self.k, self.offset, most)

    def keep_similar(self, answers: list[list[Hit]]) -> list[list[Hit]]:
        """Remove hits whose score is below `min_score`."""
        least = self.min_score
        if least is None:
            return answers
        return [[hit for hit in hits if hit.score >= least] for hits in answers]


class SearchKeywords(TypedDict, total=False):
    """The fields of `SearchOptions` as keywords of a call, but for `k`."""

    filter: str
    offset: int
    min_score: float | None
    on: Side
    group_by: GroupBy | None
    effort: float
    params: Mapping[str, Any] | None


def check_page(k: int, offset: int, most: int, *, name: str = "k") -> None:
    """Validate a page; `name` is the name of `k` in errors.

    Raises:
        SearchError: They are not integers, `k` is below 1, `offset` is below 0, or their sum is
            above `most`.
    """
    _check_whole(**{name: k, "offset": offset})
    if k < 1 or offset < 0 or k + offset > most:
        raise ArgumentError(
            f"{name}={k} with offset={offset}: {name} is at least 1, offset at least 0, "
            f"and both together at most {most:,}"
        )


def _check_whole(**values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ArgumentError(f"{name} must be a whole number, got {value!r}")


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
