"""What a search without a query lists, and tags as people type them."""

import heapq
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

from coca.core.errors import ArgumentError
from coca.search.filters import NOT_HIDDEN, all_of, has_any_tag
from coca.search.records import Hit, Record, group_of
from coca.search.store import Collection


def newest(collection: Collection, filter: str, *, limit: int, offset: int = 0) -> list[Hit]:
    """List the images that a filter keeps, newest first, each once; the scores are 0."""
    images: dict[str, Record] = {}
    for page in collection.pages(all_of(filter, NOT_HIDDEN), vectors=False):
        for record in page:
            images.setdefault(group_of(record.as_hit(), "image"), record)
    first = heapq.nsmallest(
        offset + limit, images.values(), key=lambda record: (-record.time, record.id)
    )
    return [record.as_hit() for record in first[offset:]]


def filter_of_tags(collection: Collection, tags: Sequence[str]) -> str:
    """Build the filter for records with all of these tags, in any case if one has no record.

    Raises:
        ArgumentError: No record has a tag in any case; the message has the nearest tags.
    """
    counts: Counter[str] | None = None
    conditions = []
    for tag in tags:
        condition = has_any_tag([tag])
        if not collection.count(condition):
            if counts is None:
                pages = collection.pages(vectors=False)
                counts = Counter(each for page in pages for record in page for each in record.tags)
            forms = [form for form in counts if form.casefold() == tag.casefold()]
            if not forms:
                raise ArgumentError(f"no image has the tag {tag!r}; {_nearest(tag, counts)}")
            condition = has_any_tag(forms)
        conditions.append(condition)
    return all_of(*conditions)


def _nearest(tag: str, counts: Counter[str]) -> str:
    """List the tags that are spelled alike, else the most frequent ones, with their counts."""
    folded = {each.casefold(): each for each in counts}
    alike = [folded[near] for near in get_close_matches(tag.casefold(), folded)]
    shown = alike or [each for each, _ in counts.most_common(5)]
    named = ", ".join(f"{each} ({counts[each]:,})" for each in shown)
    kind = "the nearest are" if alike else "the most frequent are"
    return f"{kind} {named}" if shown else "the collection has no tags"
