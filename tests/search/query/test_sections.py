from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from coca.search.query.engine import SearchEngine
from coca.search.query.sections import FIRST_HITS, Divided, in_sections, sections_of
from coca.search.records import Hit, Record
from coca.search.store import Collection

RECORDS = 60


@pytest.fixture
def engine(
    embedder: Any, collection: Collection, make_record: Callable[..., Record]
) -> SearchEngine:
    """Engine over records with cosines of -1 to 1 to "sea", the ten nearest are tagged."""
    embedder.class_vectors = np.eye(embedder.embed_dim, dtype=np.float32)
    vectors = embedder.with_cosines("sea", np.linspace(-1, 1, RECORDS))
    collection.upsert(
        make_record(f"{row}", vector=vector, tags=("sea",) if row >= RECORDS - 10 else ())
        for row, vector in enumerate(vectors)
    )
    return SearchEngine(embedder, collection)


def found(engine: SearchEngine, limit: int) -> list[Hit]:
    return engine.search("sea", limit=limit)


def test_likely_hits_are_in_sections_and_the_others_follow(engine: SearchEngine) -> None:
    ranked = found(engine, RECORDS)
    divided = in_sections(partial(found, engine), RECORDS)
    hits, sections = divided.hits, divided.sections
    assert sections is not None
    assert divided.is_complete
    assert [section.reasons for section in sections] == [["tag: sea"], ["looks like"]]
    for section in sections:
        own = [hit for hit in ranked if hit.likely and hit.reason in section.reasons]
        assert section.hits == own
    likely = [hit for section in sections for hit in section.hits]
    assert len(likely) == sum(hit.likely is True for hit in ranked) < RECORDS
    assert hits == [*likely, *(hit for hit in ranked if not hit.likely)]


@pytest.mark.parametrize("first", [2, 20, 50, FIRST_HITS])
def test_pages_are_parts_of_one_list(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr("coca.search.query.sections.FIRST_HITS", first)
    every = in_sections(partial(found, engine), RECORDS)
    for start in range(0, RECORDS, 7):
        page = in_sections(partial(found, engine), start + 7)
        assert page.hits[start : start + 7] == every.hits[start : start + 7]
        assert (page.sections, page.is_complete) == (every.sections, every.is_complete)


@pytest.mark.parametrize("first", [2, 20])
def test_likely_hits_that_follow_the_sections_are_as_ranked(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr("coca.search.query.sections.FIRST_HITS", first)
    ranked = found(engine, RECORDS)
    assert all(hit.likely for hit in ranked[: first + 1])
    divided = in_sections(partial(found, engine), RECORDS)
    assert not divided.is_complete
    assert {hit.id for hit in divided.hits[:first]} == {hit.id for hit in ranked[:first]}
    assert divided.hits[first:] == ranked[first:]


def test_a_query_without_a_line_has_no_sections(engine: SearchEngine, embedder: Any) -> None:
    embedder.class_vectors = None
    hits = found(engine, RECORDS)
    assert in_sections(partial(found, engine), RECORDS) == Divided(hits, None, is_complete=False)


@pytest.mark.parametrize(
    ("reasons", "sections"),
    [
        ("t l l l l l l l", ["t l"]),
        ("t t t t t l l l l l", ["t", "l"]),
        ("t t t t t c c l l l l l l", ["t", "c l"]),
        ("t t c c p l l l l l l", ["t c p", "l"]),
        ("l l l l l l t t t t t", ["l", "t"]),
        ("c c c c c c l l", ["c l"]),
        ("t l", ["t l"]),
        ("", []),
    ],
)
def test_few_hits_share_a_section_in_the_order_of_the_ranking(
    reasons: str, sections: list[str]
) -> None:
    hits = [
        Hit(id=f"{rank}", score=-float(rank), path="", caption="", metadata={}, reason=reason)
        for rank, reason in enumerate(reasons.split())
    ]
    divided = sections_of(hits)
    assert [" ".join(section.reasons) for section in divided] == sections
    for section in divided:
        assert section.hits == [hit for hit in hits if hit.reason in section.reasons]


@pytest.mark.parametrize(
    ("order", "sections"),
    [
        ("l l l l l l t l t t t t t", [["l"], ["t"]]),
        ("l t l l l t t t l t t t t t", [["l", "t"]]),
    ],
)
def test_reasons_that_the_ranking_mixes_share_a_section(
    order: str, sections: list[list[str]]
) -> None:
    hits = [
        Hit(id=f"{rank}", score=-float(rank), path="", caption="", metadata={}, reason=reason)
        for rank, reason in enumerate(order.split())
    ]
    assert [section.reasons for section in sections_of(hits)] == sections
