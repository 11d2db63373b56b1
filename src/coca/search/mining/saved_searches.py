"""Saved searches: a query with its marks under a name, and how many of its hits are new.

They are kept in their collection, and stay when another model embeds it again.
"""

import re
from typing import ClassVar

from pydantic import model_validator

from coca.core.config.frozen_config import Config
from coca.core.errors import ArgumentError
from coca.search.filters import all_of
from coca.search.mining.recommend import example_terms, others_than
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import Term, typed_terms, weigh_examples
from coca.search.records import Hit
from coca.search.search_options import QueryOptions

MAX_SEARCHES, MAX_BYTES = 100, 65_535
"""Maximum number of saved searches of a collection, and maximum size of one as JSON, in bytes."""
FIRST = 50
"""Number of first hits among which new ones are counted."""
NAME = re.compile(r"[^\s/\\\"'](?:[^/\\\"'\x00-\x1f]{0,62}[^\s/\\\"'])?")
"""Names of saved searches."""


class SavedSearch(Config):
    """A query with its marks and filter, and its first hits at the last look.

    Raises:
        ArgumentError: There is nothing to search for, or an example is an image or a vector.
    """

    range_error: ClassVar = ArgumentError

    text: str = ""
    """Query text, as people type it; empty without."""
    positive: tuple[str | Term, ...] = ()
    """Items that are right, by their ids, and further texts."""
    negative: tuple[str | Term, ...] = ()
    """Items and texts that are not meant; these items are left out of the hits."""
    filter: str = ""
    """Filter expression of all hits."""
    link: str = ""
    """Text of a client, such as the address of its page; it is returned as it is."""
    seen: tuple[str, ...] = ()
    """Images of the first hits at the last look: `content`, or the id of a record without."""
    least: float | None = None
    """Score of the last of them; None if all hits were among them."""

    @property
    def texts(self) -> int:
        """Number of texts that the model embeds for it."""
        marks = (*self.positive, *self.negative)
        return bool(self.text) + sum(isinstance(one, Term) for one in marks)

    @model_validator(mode="after")
    def _check_rules(self) -> "SavedSearch":
        examples = (*self.positive, *self.negative)
        if any(isinstance(one, Term) and one.text is None for one in examples):
            raise ArgumentError(
                "a saved search keeps texts and items: add the image to the collection, and mark "
                "its item"
            )
        if not (self.text.strip() or self.positive):
            raise ArgumentError("a saved search needs a text or a positive example")
        return self


class SavedSearches:
    """Saved searches of the collection of an engine.

    Example:
        saved = SavedSearches(engine)
        saved.save("boats", SavedSearch(text="boat", negative=(wrong.id,)))
        counts = {name: saved.count_new(search) for name, search in saved.read().items()}
        hits = saved.save("boats", saved.read()["boats"])  # the next look
    """

    def __init__(self, engine: SearchEngine) -> None:
        self.engine = engine

    def read(self) -> dict[str, SavedSearch]:
        """Read all saved searches, sorted by name."""
        stored = self.engine.collection.saved_searches()
        return {name: SavedSearch.model_validate_json(text) for name, text in stored.items()}

    def save(self, name: str, search: SavedSearch) -> list[Hit]:
        """Save a search under a name, return its first hits, and note them as seen.

        Saving it again is the next look.

        Raises:
            ArgumentError: The name is not allowed, the search is too large, or there are too many.
            SearchError: The query is invalid.
        """
        if not NAME.fullmatch(name):
            raise ArgumentError(
                f"the name of a search must have 1 to 64 characters without quotes and slashes, "
                f"got {name!r:.80}"
            )
        known = self.engine.collection.saved_searches()
        if len(known) >= MAX_SEARCHES and name not in known:
            raise ArgumentError(
                f"the collection has {len(known)} saved searches, and at most {MAX_SEARCHES} are "
                "kept: delete one of them first"
            )
        hits = self._find(search)
        least = _score(hits[-1]) if len(hits) == FIRST else None
        search = search.replace(seen=tuple(map(_key, hits)), least=least)
        text = search.model_dump_json(exclude_defaults=True)
        if (size := len(text.encode())) > MAX_BYTES:
            raise ArgumentError(
                f"a saved search must have at most {MAX_BYTES:,} bytes as JSON, got {size:,}: use "
                "fewer marks, or shorter texts and filters"
            )
        self.engine.collection.save_search(name, text)
        return hits

    def count_new(self, search: SavedSearch) -> int:
        """Count the images of its first hits that were not among them at the last look.

        An image that moves up because others are gone is not new: its score is below `least`.
        """
        least = -float("inf") if search.least is None else search.least
        hits = self._find(search)
        return sum(_key(hit) not in search.seen and _score(hit) >= least for hit in hits)

    def delete(self, name: str) -> None:
        """Delete a saved search; a missing one is ignored."""
        self.engine.collection.save_search(name, "")

    def _find(self, search: SavedSearch) -> list[Hit]:
        """Search, without the marks of items that were deleted."""
        collection = self.engine.collection
        marks = (*search.positive, *search.negative)
        records = collection.get([one for one in marks if isinstance(one, str)])
        positive, negative = (
            example_terms(
                collection, [one for one in some if isinstance(one, Term) or one in records]
            )
            for some in (search.positive, search.negative)
        )
        if search.text.strip():
            positive = [*typed_terms(search.text), *positive]
        if not positive:
            return []
        others = (
            others_than(records[one])
            for one in search.negative
            if isinstance(one, str) and one in records
        )
        options = QueryOptions(limit=FIRST, filter=all_of(search.filter, *others))
        return self.engine.search_terms(weigh_examples(positive, negative), options)


def _key(hit: Hit) -> str:
    return hit.content or hit.id


def _score(hit: Hit) -> float:
    return hit.score if hit.fused_score is None else hit.fused_score
