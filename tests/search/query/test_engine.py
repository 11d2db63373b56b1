from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coca.core.errors import DataError, SearchError
from coca.search.predictor import Embedder
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import Term
from coca.search.records import Record
from coca.search.store import Collection


@pytest.fixture
def engine(
    embedder: Embedder, collection: Collection, make_record: Callable[..., Record]
) -> SearchEngine:
    collection.upsert(make_record(f"{n}", metadata={"n": n}) for n in range(40))
    return SearchEngine(embedder, collection)


def test_many_searches_at_once_answer_as_one_by_one(engine: SearchEngine) -> None:
    texts = ["1", "2", "house"]
    for text, hits in zip(texts, engine.search_batch(texts=texts, limit=4), strict=True):
        alone = engine.search(text, limit=4, hybrid=False)
        assert [hit.id for hit in hits] == [hit.id for hit in alone]
        # Sums of 16 products in another order.
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-6)


def test_another_model_is_refused_before_the_first_search(
    embedder: Any, collection: Collection
) -> None:
    embedder.fingerprint = "model-two"
    with pytest.raises(SearchError, match="and not by model-two"):
        SearchEngine(embedder, collection)


LESS = [Term(text="3", weight=-0.5)]


@pytest.mark.parametrize(
    ("ask", "kind", "fault"),
    [
        (lambda it: it.search(), SearchError, "nothing to search for"),
        (lambda it: it.search(" "), SearchError, "the text to search for is empty"),
        (lambda it: it.search(image=b"bad"), DataError, "not an image"),
        (lambda it: it.search(image=b"17", rerank=2), SearchError, "add a text"),
        (lambda it: it.search("17", rerank=2), SearchError, "writes no captions"),
        (lambda it: it.search(image=b"1", terms=LESS, hybrid=True), SearchError, "add a text"),
        (lambda it: it.search("3", hybrid=True, on="text"), SearchError, "on must be 'image'"),
        (lambda it: it.search_batch(texts=["1"], images=[]), SearchError, "same number of each"),
        (lambda it: it.explain("absent", "1"), SearchError, "no record 'absent'"),
        (lambda it: it.search("3", limit=16_380, offset=10), SearchError, "at most 16,384"),
    ],
)
def test_a_search_that_cannot_be_done_is_refused(
    engine: SearchEngine, ask: Callable[[SearchEngine], Any], kind: type[Exception], fault: str
) -> None:
    with pytest.raises(kind, match=fault):
        ask(engine)


@pytest.mark.parametrize(
    ("vector", "fault"),
    [
        (np.ones(5), r"have the shape \(1, 5\); this collection takes rows of 16 numbers"),
        (np.full(16, np.nan), "vector 0 to search for has NaN or infinity"),
        (np.full(16, np.inf), "vector 0 to search for has NaN or infinity"),
        (np.zeros(16), "vector 0 to search for is all zeros"),
    ],
)
def test_a_vector_that_cannot_be_searched_for_is_reported(
    engine: SearchEngine, vector: np.ndarray, fault: str
) -> None:
    for text in (None, "1"):
        with pytest.raises(SearchError, match=fault):
            engine.search(text, vector=vector)
    for texts in (None, ["1"]):
        with pytest.raises(SearchError, match=fault):
            engine.search_batch(texts=texts, vectors=vector[np.newaxis])


def test_the_length_of_a_vector_does_not_count(engine: SearchEngine, embedder: Any) -> None:
    by_words = engine.search("17", hybrid=False)
    longer = engine.search(vector=3 * embedder.direction(b"17"))
    assert [hit.id for hit in longer] == [hit.id for hit in by_words]
    direction = embedder.direction(b"17")
    once, *others = (
        [hit.id for hit in engine.search("x", vector=length * direction)]
        for length in (1, 1e-7, 50)
    )
    assert others == [once, once]
    answers = engine.search_batch(texts=["x", "x"], vectors=np.stack([direction, 9 * direction]))
    assert [[hit.id for hit in hits] for hits in answers] == [once, once]


def test_no_queries_get_no_answers(engine: SearchEngine) -> None:
    assert engine.search_batch(texts=[]) == []
    assert engine.search_batch(vectors=np.zeros((0, 16))) == []


def test_terms_weigh_texts_images_and_vectors(engine: SearchEngine, embedder: Any) -> None:
    car, night, cat = (embedder.direction(name) for name in (b"car", b"night", b"cat"))
    terms = [
        Term(text="car", weight=2.0),
        Term(image=b"cat", weight=0.5),
        Term(vector=night, weight=-0.3),
    ]
    summed = 2 * car + 0.5 * cat - 0.3 * night
    by_hand = engine.search(vector=summed / np.linalg.norm(summed), limit=40)
    by_terms = engine.search(terms=terms, limit=40)
    assert [hit.id for hit in by_terms] == [hit.id for hit in by_hand]
    assert engine.search("car", terms=terms[1:], limit=40) != by_terms
    assert engine.search("3", image=b"5") == engine.search(terms=[Term(text="3"), Term(image=b"5")])


def test_captions_answer_where_they_are_asked(
    embedder: Any, collection: Collection, make_record: Callable[..., Record]
) -> None:
    collection.upsert(
        make_record(f"{n}", caption=f"c{n}", text_vector=embedder.direction(f"c{n}".encode()))
        for n in range(20)
    )
    engine = SearchEngine(embedder, collection)
    assert engine.search("c7", limit=1, on="text")[0].caption == "c7"
    # The image of record 9, among the captions: images to texts.
    by_image = engine.search(image=b"c9", limit=1, on="text")
    assert [hit.caption for hit in by_image] == ["c9"]
    assert [
        hit.caption for hit in engine.search_batch(texts=["c7", "c9"], limit=1, on="text")[1]
    ] == ["c9"]
