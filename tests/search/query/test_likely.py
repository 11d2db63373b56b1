from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coca.core.errors import ArgumentError, SearchError
from coca.processing.class_words import ClassNoun
from coca.search.query import likely
from coca.search.query.engine import SearchEngine
from coca.search.query.likely import line_of
from coca.search.query.query_terms import Term
from coca.search.records import Record
from coca.search.store import Collection

RECORDS = 40


@pytest.fixture
def engine(
    embedder: Any, collection: Collection, make_record: Callable[..., Record]
) -> SearchEngine:
    """Engine over records with cosines of -1 to 1 to "sea", every third without a time."""
    embedder.class_vectors = np.eye(embedder.embed_dim, dtype=np.float32)
    vectors = embedder.with_cosines("sea", np.linspace(-1, 1, RECORDS))
    collection.upsert(
        make_record(f"{row}", vector=vector, time=1 + row * 7 % 11 if row % 3 else 0)
        for row, vector in enumerate(vectors)
    )
    return SearchEngine(embedder, collection)


def test_the_line_depends_on_the_nearest_class(embedder: Any) -> None:
    embedder.class_vectors = np.eye(16, dtype=np.float32)
    for greatest, name, sentence in ((1.0, 0.5, 0.5), (0.5, 0.325, 0.325), (0.1, 0.115, 0.185)):
        query = np.zeros(16)
        query[3] = greatest
        assert line_of(embedder, query, "a red car") == pytest.approx(name)
        assert line_of(embedder, query, "a red car in snow") == pytest.approx(sentence)
    assert line_of(embedder, np.ones(8), "car") is None
    embedder.class_vectors = None
    assert line_of(embedder, np.ones(16), "car") is None
    assert line_of(object(), np.ones(16), "car") is None


def test_hits_are_likely_from_the_line_on(engine: SearchEngine) -> None:
    hits = engine.search("sea", limit=RECORDS)
    line = line_of(engine.embedder, engine.query_vector([Term(text="sea")]), "sea")
    assert line is not None
    assert [hit.likely for hit in hits] == [hit.score >= line for hit in hits]
    assert 3 < sum(hit.likely is True for hit in hits) < RECORDS - 3
    assert {hit.reason for hit in hits} == {"looks like"}


def test_a_noun_that_a_classifier_is_sure_of_is_likely(
    engine: SearchEngine, embedder: Any, make_record: Callable[..., Record]
) -> None:
    (far,) = embedder.with_cosines("sea", np.zeros(1))
    for percent in (49, 50, 95):
        seen = make_record(f"p{percent}", vector=far, metadata={"looks_like": {"sea": percent}})
        engine.collection.upsert([seen])
    hits = {hit.id: hit for hit in engine.search("the sea", limit=2 * RECORDS)}
    assert [hits[f"p{percent}"].likely for percent in (49, 50, 95)] == [False, True, True]
    parts = [(hits[f"p{percent}"].parts or {})["text"] for percent in (49, 50, 95)]
    assert parts == pytest.approx([2.4 * 0.4, 2.4 * 0.5, 2.4 * 0.9])
    # Of a longer query, and of a search by image alone, the vectors decide.
    assert not any("text" in (hit.parts or {}) for hit in engine.search("sea of stones"))
    assert hits["p95"].id not in {hit.id for hit in engine.search("sea", hybrid=False)}


def test_a_noun_that_a_classifier_knows_and_does_not_see_is_unlikely(
    engine: SearchEngine, embedder: Any, make_record: Callable[..., Record]
) -> None:
    (near,) = embedder.with_cosines("sea", np.ones(1))
    seen: dict[str, dict[str, Any]] = {
        "other": {"looks_like": {"cliff": 60}},
        "both": {"looks_like": {"cliff": 60, "sea": 10}},
        "none": {},
        "named": {"looks_like": {"cliff": 60}, "people": ["Sea"]},
    }
    engine.collection.upsert(
        make_record(name, vector=near, metadata=metadata) for name, metadata in seen.items()
    )
    for nouns, unlikely in (
        ((), set()),
        ((ClassNoun(("sea", "ocean"), (3,)),), {"other"}),
        ((ClassNoun(("sea",)), ClassNoun(("cliff",), (3,))), set()),
    ):
        embedder.class_nouns = nouns
        for query in ("sea", "the Sea", "seas"):
            hits = {hit.id: hit.likely for hit in engine.search(query, limit=2 * RECORDS)}
            assert {name for name in seen if not hits[name]} == unlikely or query == "seas"


@pytest.mark.parametrize("first", [2, 5, 1_000])
@pytest.mark.parametrize("hybrid", [None, False])
def test_likely_keeps_the_likely_hits_on_every_page(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch, first: int, hybrid: bool | None
) -> None:
    monkeypatch.setattr(likely, "FIRST_HITS", first)
    every = engine.search("sea", limit=RECORDS, hybrid=hybrid)
    kept = [hit for hit in every if hit.likely]
    pages = [
        engine.search("sea", likely=True, offset=offset, limit=3, hybrid=hybrid)
        for offset in range(0, RECORDS, 3)
    ]
    assert [hit for page in pages for hit in page] == kept


def test_hits_are_sorted_by_time(engine: SearchEngine) -> None:
    kept = {hit.id: hit.time for hit in engine.search("sea", limit=RECORDS, likely=True)}
    newest = [hit.id for hit in engine.search("sea", sort="newest", limit=RECORDS)]
    oldest = [hit.id for hit in engine.search("sea", sort="oldest", limit=RECORDS)]
    assert sorted(newest) == sorted(oldest) == sorted(kept)
    dated = [kept[id] for id in newest if kept[id]]
    assert dated == sorted(dated, reverse=True)
    assert [kept[id] for id in oldest if kept[id]] == dated[::-1]
    assert {kept[id] for order in (newest, oldest) for id in order[len(dated) :]} == {0}
    assert [
        hit.id
        for offset in range(0, RECORDS, 4)
        for hit in engine.search("sea", sort="newest", offset=offset, limit=4)
    ] == newest


def test_without_a_line_the_first_hits_are_sorted(
    engine: SearchEngine, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coca.search.query.engine.SORTED_HITS", 12)
    embedder.class_vectors = None
    first = engine.search("sea", limit=12)
    assert {hit.likely for hit in first} == {None}
    found = engine.search("sea", sort="newest", limit=RECORDS)
    assert {hit.id for hit in found} == {hit.id for hit in first}
    with pytest.raises(SearchError, match="likely needs a query of texts, and a model with class"):
        engine.search("sea", likely=True)


def test_an_image_query_has_no_line(engine: SearchEngine) -> None:
    hits = engine.search(image=b"sea")
    assert {(hit.likely, hit.reason) for hit in hits} == {(None, "")}
    with pytest.raises(SearchError, match="likely needs a query of texts"):
        engine.search(image=b"sea", likely=True)


def test_a_record_that_says_all_words_is_likely(engine: SearchEngine) -> None:
    far = engine.search("sea", limit=RECORDS)[-1]
    assert far.likely is False

    def found(query: str) -> tuple[bool | None, str]:
        hits = {hit.id: hit for hit in engine.search(query, limit=RECORDS)}
        return hits[far.id].likely, hits[far.id].reason

    engine.edit([far.id], metadata={"city": "Brighton"})
    assert found("Brighton") == (True, "place: Brighton")
    # The sea is not in the image, and nothing says so.
    assert found("sea at Brighton") == (False, "place: Brighton")
    engine.edit([far.id], caption="the sea")
    assert found("sea at Brighton") == (True, "place: Brighton")
    assert found("sea") == (True, "caption")


def test_hits_are_sorted_by_one_thing(engine: SearchEngine) -> None:
    with pytest.raises(ArgumentError, match="sort newest orders hits by time, and rerank 5 by the"):
        engine.search("sea", sort="newest", rerank=5)
