"""Content-based recommendation by positive and negative examples, with MMR diversity."""

from collections.abc import Collection as Ids
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ArgumentError, SearchError
from coca.search.filters import where
from coca.search.mining.selection import mmr
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import Term, weigh_examples
from coca.search.records import CONTENT, ID, Hit, Record, content_id
from coca.search.search_options import (
    MAX_RESULTS,
    QueryOptions,
    RecommendOptions,
    SearchOptions,
    Side,
)
from coca.search.store import Collection

_POOL = 10
"""Candidates for each result, from which MMR selects."""


def recommend(
    engine: SearchEngine,
    positive: Sequence[str | Term],
    *,
    negative: Sequence[str | Term] = (),
    seen: Ids[str] = (),
    **options: Any,
) -> list[Hit]:
    """Recommend unseen records that are similar to some examples and dissimilar to others.

    Args:
        engine: Search engine of the collection.
        positive: Record ids and terms of wanted examples.
        negative: Record ids and terms of unwanted examples.
        seen: Record ids to exclude, besides the examples.
        **options: Fields of `RecommendOptions`, such as `limit`, `filter`, `on` and `diversity`.

    Returns:
        Hits, best first; `score` is the cosine to the combined query vector. With `diversity` they
        are sorted by `rank_score`, their marginal relevance.
    """
    for name, some in (("positive", positive), ("negative", negative)):
        if isinstance(some, str) or not all(isinstance(one, str | Term) for one in some):
            raise ArgumentError(f"{name} must be a list of record ids and terms, got {some!r}")
    if isinstance(seen, str):
        raise ArgumentError(f"seen must be a list of record ids, got {seen!r}")
    if not positive:
        raise ArgumentError("positive is empty; give a record id, a text or an image")
    wanted = RecommendOptions(**options)
    wanted.check_page(MAX_RESULTS)
    limit, diversity, on = wanted.offset + wanted.limit, wanted.diversity, wanted.on
    collection = engine.collection
    terms = weigh_examples(
        example_terms(collection, positive, on), example_terms(collection, negative, on)
    )
    examples = (*positive, *negative)
    known = {*seen, *(example for example in examples if isinstance(example, str))}
    own = set(_images_of(examples))
    excluded = len(known) + len(own)
    if limit + excluded > MAX_RESULTS:
        raise ArgumentError(
            f"{excluded:,} records were seen, and a search finds {MAX_RESULTS:,} at most; "
            "leave them out by a filter instead"
        )
    # Another copy of an image that was seen is that image.
    own |= {hit.content for hit in engine.collection.hits(dict.fromkeys(known, 0.0))} - {""}
    pool = min(limit * _POOL, MAX_RESULTS - excluded) if diversity else limit
    fields = {name: getattr(wanted, name) for name in SearchOptions.model_fields}
    query = QueryOptions(**fields | {"offset": 0, "limit": pool + excluded}, hybrid=False)
    hits = [
        hit
        for hit in engine.search_terms(terms, query)
        if hit.id not in known and own.isdisjoint((hit.content, hit.path))
    ][:pool]
    if not diversity:
        return hits[wanted.offset :]
    records = engine.collection.get(hit.id for hit in hits)
    # Excludes records that were deleted since the search.
    hits = [hit for hit in hits if hit.id in records]
    if not hits:
        return hits
    sides = (vector_on(records[hit.id], on) for hit in hits)
    relevance = np.array([hit.score for hit in hits])
    chosen = mmr(np.stack(list(sides)), relevance, limit, diversity=diversity)
    return [replace(hits[row], rank_score=gain) for row, gain in chosen[wanted.offset :]]


def _images_of(examples: Iterable[str | Term]) -> Iterator[str]:
    """List the contents and paths of the images among examples."""
    for example in examples:
        if isinstance(example, str):
            continue
        if isinstance(example.image, bytes):
            yield content_id(example.image)
        elif isinstance(example.image, str | Path):
            yield str(example.image)
            # An unreadable image is reported when it is embedded.
            with suppress(OSError, ValueError):
                yield content_id(Path(example.image).read_bytes())


def others_than(record: Record) -> str:
    """Build the filter of all records but one and the copies of its image."""
    return where(CONTENT, "!=", record.content) if record.content else where(ID, "!=", record.id)


def vector_on(record: Record, on: Side) -> Float32[np.ndarray, " E"]:
    """Return the vector of a record on one side."""
    if on == "image":
        return record.vector
    if record.text_vector is None:
        raise ArgumentError(f"record {record.id!r} has no caption to compare by")
    return record.text_vector


def example_terms(
    collection: Collection, examples: Sequence[str | Term], on: Side = "image"
) -> list[Term]:
    """Convert examples to terms: an id becomes the vector of its record."""
    records = collection.get([one for one in examples if isinstance(one, str)])
    terms = []
    for one in examples:
        if isinstance(one, Term):
            if one.weight < 0:
                raise ArgumentError(f"a weight of an example must be above 0, got {one.weight:g}")
            terms.append(one)
        elif one in records:
            terms.append(Term(vector=vector_on(records[one], on)))
        else:
            raise SearchError(f"there is no record {one!r} in {collection.info.collection!r}")
    return terms
