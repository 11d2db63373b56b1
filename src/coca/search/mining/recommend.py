"""Recommendation by content: more like these, less like those, and not all the same."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from numbers import Real
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ArgumentError, SearchError
from coca.search.milvus.collection import MAX_RESULTS, Side
from coca.search.milvus.pagination import check_page
from coca.search.mining.diversity import mmr
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import Term
from coca.search.records import Hit, Record, content_id

_UNLIKE_WEIGHT = -0.5
"""In total, beside 1 for what is liked: dislikes turn the direction, and do not make it."""
_POOL = 10
"""Candidates for each result, from which different ones are chosen."""


def recommend(
    engine: SearchEngine,
    like: Sequence[str | Term],
    *,
    unlike: Sequence[str | Term] = (),
    k: int = 10,
    filter: str = "",
    seen: Collection[str] = (),
    diversity: float = 0.0,
    on: Side = "image",
) -> list[Hit]:
    """Records like some, unlike others, that have not been seen.

    Args:
        engine: The collection and its model.
        like: Ids of records, or terms: texts, images and vectors with weights above 0.
        unlike: As `like`; together they count half as much.
        k: How many results, at most.
        filter: Milvus expression that a record must fulfil.
        seen: Ids that are not given again; those of `like` and `unlike` never are, nor is the
            record of an image given as a file or as encoded bytes.
        diversity: 0 goes by likeness alone; the nearer to 1, the more results differ.
        on: Whether images or captions are recommended by.

    Returns:
        The best first; `score` is the cosine to what is liked less what is not. With `diversity`
        they are sorted by `rank_score`, their marginal relevance.

    Raises:
        SearchError: Nothing is liked, an id is not there, `k` is out of range, `diversity` is not 0
            to 1, or so much was seen that Milvus cannot look past it.
        DataError: An image cannot be read.
    """
    for name, some in (("like", like), ("unlike", unlike)):
        if isinstance(some, str) or not all(isinstance(one, str | Term) for one in some):
            raise ArgumentError(f"{name} is {some!r}; right is a list of ids of records and terms")
    if isinstance(seen, str):
        raise ArgumentError(f"seen is {seen!r}; right is a list of ids of records")
    if not like:
        raise ArgumentError("nothing to recommend by: name a record, a text or an image to be like")
    if not (isinstance(diversity, Real) and 0 <= diversity <= 1):
        raise ArgumentError(f"the diversity is {diversity!r}; right is 0 to 1")
    check_page(k, 0, MAX_RESULTS)
    terms = [
        *_share(engine, like, 1.0, on),
        *(_share(engine, unlike, _UNLIKE_WEIGHT, on) if unlike else ()),
    ]
    hidden = {*seen, *_ids_of((*like, *unlike))}
    if k + len(hidden) > MAX_RESULTS:
        raise ArgumentError(
            f"{len(hidden):,} records were seen, and Milvus looks at {MAX_RESULTS:,} at most; "
            "leave them out by a filter instead"
        )
    pool = min(k * _POOL, MAX_RESULTS - len(hidden)) if diversity else k
    hits = engine.search(terms=terms, k=pool + len(hidden), filter=filter, on=on)
    hits = [hit for hit in hits if hit.id not in hidden][:pool]
    if not diversity:
        return hits
    records = engine.index.get(hit.id for hit in hits)
    # Without what was removed in this moment.
    hits = [hit for hit in hits if hit.id in records]
    if not hits:
        return hits
    sides = (_vector(records[hit.id], on) for hit in hits)
    relevance = np.array([hit.score for hit in hits])
    chosen = mmr(np.stack(list(sides)), relevance, k, diversity=diversity)
    return [replace(hits[row], rank_score=gain) for row, gain in chosen]


def _ids_of(given: Iterable[str | Term]) -> Iterator[str]:
    """The ids of records among what is given: an image's is the hash of its bytes."""
    for one in given:
        if isinstance(one, str):
            yield one
        elif isinstance(one.image, bytes):
            yield content_id(one.image)
        elif isinstance(one.image, str | Path):
            # One that cannot be read is reported where it is embedded.
            with suppress(OSError, ValueError):
                yield content_id(Path(one.image).read_bytes())


def _vector(record: Record, on: Side) -> Float32[np.ndarray, " E"]:
    if on == "image":
        return record.vector
    if record.text_vector is None:
        raise SearchError(f"record {record.id!r} has no caption to compare by")
    return record.text_vector


def _share(
    engine: SearchEngine, given: Sequence[str | Term], weight: float, on: Side
) -> list[Term]:
    """The terms with weights that add up to `weight`, ids replaced by the records' vectors."""
    ids = [one for one in given if isinstance(one, str)]
    records = engine.index.get(ids) if ids else {}
    if missing := [id for id in ids if id not in records]:
        raise SearchError(f"there is no record {missing[0]!r} in {engine.index.info.collection!r}")
    terms = [
        Term(vector=_vector(records[one], on)) if isinstance(one, str) else one for one in given
    ]
    if negative := [term for term in terms if term.weight < 0]:
        raise ArgumentError(
            f"what is liked or not has the weight {negative[0].weight:g}; right is above 0"
        )
    total = sum(term.weight for term in terms)
    return [
        Term(text=t.text, image=t.image, vector=t.vector, weight=weight * t.weight / total)
        for t in terms
    ]
