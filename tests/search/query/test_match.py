"""Match score: the limit keeps the stated rate of false alarms, and marks hits and queries."""

from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ArgumentError, SearchError
from coca.search.predictor import Embedder
from coca.search.query.engine import SearchEngine
from coca.search.query.match import (
    CAPTION_WEIGHT,
    GENERATED_WEIGHT,
    GIVEN_WEIGHT,
    IMAGE_WEIGHT,
    TEXT_WEIGHT,
    Calibration,
    MatchScore,
    fit,
    quantile_above,
    words_score,
)
from coca.search.records import Origin, Record, content_id
from coca.search.store import Collection, Store
from coca.search.words import query_terms

SCORE = MatchScore(texts_mean=(0.0, 0.2), records_mean=(0.4, 0.0))
MADE = Calibration(
    texts_mean=(0.0,) * 8,
    records_mean=(0.0,) * 8,
    fingerprint="model-one",
    median=0.25,
    limit=0.5,
    false_alarms=0.05,
    records=10,
    other={"others": 40},
    matching=6,
    found=0.5,
)


def record(caption: str, **fields: Any) -> Record:
    vectors: dict[str, Any] = {"vector": np.array([1, 0], np.float32)}
    return Record(id="a", path="0.jpg", caption=caption, **vectors | fields)


def score(query: np.ndarray, text: str, record: Record) -> float:
    return float(SCORE.scores(query, text, [record])[0])


def fitted(
    *scores: np.ndarray, rate: float = 0.05, matching: np.ndarray | None = None
) -> Calibration:
    return fit(
        SCORE,
        {str(number): some for number, some in enumerate(scores)},
        np.zeros(0) if matching is None else matching,
        false_alarms=rate,
        fingerprint="m",
        records=9,
    )


def test_the_score_is_that_of_a_hand_calculation() -> None:
    query = np.array([0.6, 0.8])
    centered = np.array([0.6, 0.7])
    mean = np.array([0.2, 0.0])
    image, caption = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    named = record("two red cars", text_vector=caption)
    mixed = IMAGE_WEIGHT * image + CAPTION_WEIGHT * caption
    expected = centered @ (mixed - mean) + GIVEN_WEIGHT * 0.5**2
    assert score(query, "a red dog", named) == pytest.approx(expected)
    # Of a generated caption only the words count, and the vector is that of the image.
    generated = replace(named, origin=Origin(captioned=True))
    expected = centered @ (image - mean) + GENERATED_WEIGHT * 0.5**2
    assert score(query, "a red dog", generated) == pytest.approx(expected)
    alone = score(query, "a red dog", record(""))
    assert alone == pytest.approx(centered @ (image - mean))
    page = replace(record(""), metadata={"ocr_text": "The red dog inn"})
    expected = centered @ (image - mean) + TEXT_WEIGHT
    assert score(query, "a red dog", page) == pytest.approx(expected)


def test_the_means_are_those_of_texts_and_records() -> None:
    random = np.random.default_rng(0)
    texts, records = random.normal(size=(5, 3)), random.normal(size=(7, 3))
    means = MatchScore.of_means(texts, records)
    assert means.texts_mean == pytest.approx(texts.mean(axis=0), abs=1e-5)
    assert means.records_mean == pytest.approx(records.mean(axis=0), abs=1e-5)


def test_words_that_were_given_count_more_than_those_of_the_model() -> None:
    query = query_terms("a red dog")
    assert words_score(query, record("", tags=("dog",), album="/red")) == GIVEN_WEIGHT
    generated = record("a red dog", origin=Origin(captioned=True))
    assert words_score(query, generated) == GENERATED_WEIGHT
    both = replace(generated, tags=("dogs",))
    assert words_score(query, both) == GENERATED_WEIGHT
    assert words_score(query, replace(both, caption="a car")) == GIVEN_WEIGHT / 4
    assert words_score(query_terms("?"), both) == 0


@pytest.mark.parametrize(("count", "rate"), [(40, 0.05), (41, 0.2), (200, 0.1)])
def test_texts_that_match_nothing_exceed_the_limit_at_most_at_the_stated_rate(
    count: int, rate: float
) -> None:
    # Over many calibrations: with one of them, the rate varies with the texts.
    random, runs = np.random.default_rng(0), 300
    limits = np.array([fitted(random.normal(size=count), rate=rate).limit for _ in range(runs)])
    alarms = np.array([1 - NormalDist().cdf(limit) for limit in limits])
    error = float(np.std(alarms)) / runs**0.5
    assert np.mean(alarms) <= rate + 3 * error
    # The finite-sample correction costs at most one of the texts.
    assert np.mean(alarms) >= rate - 1 / (count + 1) - 3 * error


def test_the_limit_is_the_highest_of_the_sources_with_enough_texts() -> None:
    low, high = np.arange(19.0), np.arange(19.0) + 100
    assert fitted(low, high).limit == fitted(high).limit == 118
    made = fitted(low, high[:18])
    assert (made.limit, made.other) == (18, {"0": 19})


def test_found_is_the_rate_of_own_images_above_the_limit() -> None:
    made = fitted(np.arange(19.0), matching=np.array([17.0, 18.0, 19.0, 20.0]))
    assert (made.found, made.matching) == (0.5, 4)
    assert fitted(np.arange(19.0)).found is None


def test_from_the_limit_on_the_probability_is_that_of_a_match_if_half_of_the_queries_have_one() -> (
    None
):
    random, count = np.random.default_rng(3), 200_000
    made = fitted(random.normal(size=10_000))
    # Scores of matches are spread widely, as those of captions and of images alone.
    yes, no = random.uniform(-2, 8, count), random.normal(size=count)
    assert made.probability(made.limit) == 0.5
    for low in (0.4, 0.6, 0.8):
        found = [
            sum(low <= made.probability(score) < low + 0.2 for score in some[:20_000])
            for some in (yes, no)
        ]
        assert found[0] / sum(found) == pytest.approx(low + 0.1, abs=0.12)


@given(score=st.floats(-10, 10), more=st.floats(0, 10))
def test_the_probability_is_monotone(score: float, more: float) -> None:
    assert 0 <= MADE.probability(score) <= MADE.probability(score + more) <= 1


def test_texts_of_one_score_give_a_probability() -> None:
    made = fitted(np.ones(40))
    assert (made.probability(0.0), made.probability(1.0), made.probability(2.0)) == (0, 0.5, 1)


def test_the_quantile_is_the_one_of_split_conformal_prediction() -> None:
    scores = np.arange(1.0, 20.0)  # 19 of them: the 20th exceeds the highest in 1 of 20 cases
    assert quantile_above(scores, 0.05) == 19
    assert quantile_above(scores[::-1], 0.1) == 18
    assert quantile_above(scores, 0.5) == 10
    with pytest.raises(ValueError, match=r"19 scores have no quantile at a rate of 0\.04"):
        quantile_above(scores, 0.04)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(SearchError, match=r"needs at least 19 texts that match nothing, got 18"):
        fitted(np.arange(18.0))
    with pytest.raises(ArgumentError, match=r"must be in \(0, 0\.5\), got 0\.5"):
        fitted(np.arange(40.0), rate=0.5)


def test_a_calibration_is_stored_with_its_collection(store: Store, collection: Collection) -> None:
    assert Calibration.of(collection.info, fingerprint="model-one") is None
    collection.keep_calibration(MADE.to_json())
    for info in (collection.describe(), store.open("pictures").info):
        assert Calibration.of(info, fingerprint="model-one") == MADE
    collection.keep_calibration("")
    assert Calibration.of(collection.describe(), fingerprint="model-one") is None


def test_a_calibration_of_another_model_or_form_is_refused(collection: Collection) -> None:
    info = replace(collection.info, calibration=MADE.to_json())
    with pytest.raises(SearchError, match="is of model model-one, and not of model-two: `coca"):
        Calibration.of(info, fingerprint="model-two")
    for text in ("{", "{}", MADE.to_json().replace("0.05", "7.5")):
        with pytest.raises(SearchError, match=r"cannot be read.*`coca collection calibrate"):
            Calibration.of(replace(info, calibration=text), fingerprint="model-one")


# Marks of hits, and the verdict on the query.


COUNT = 120
LIMIT = 0.9


@pytest.fixture
def engine(collection: Collection, embedder: Embedder) -> SearchEngine:
    collection.upsert(
        Record(
            id=content_id(bytes([n])),
            path=f"{n}.jpg",
            vector=embedder.embed_images([bytes([n])])[0],
            text_vector=embedder.embed_texts([f"image {n}"])[0],
            caption=f"image {n}",
        )
        for n in range(COUNT)
    )
    width = collection.info.embed_dim
    means: dict[str, Any] = {"texts_mean": (0.01,) * width, "records_mean": (0.02,) * width}
    made = replace(MADE, fingerprint=embedder.fingerprint, limit=LIMIT, **means)
    collection.keep_calibration(made.to_json())
    return SearchEngine(embedder, collection)


def test_hits_are_marked_by_their_score(engine: SearchEngine) -> None:
    plain = engine.search("image", k=20, match=False)
    assert {(hit.is_match, hit.query_matches) for hit in plain} == {(None, None)}
    hits = engine.search("image", k=20)
    calibration = Calibration.of(
        engine.collection.describe(), fingerprint=engine.embedder.fingerprint
    )
    assert calibration is not None
    records = engine.collection.get(hit.id for hit in hits)
    (query,) = engine.embedder.embed_texts(["image"])
    for hit, before in zip(hits, plain, strict=True):
        (own,) = calibration.scores(query, "image", [records[hit.id]])
        assert hit.match_probability == pytest.approx(calibration.probability(own), abs=1e-6)
        assert hit.is_match == (own > LIMIT)
        assert replace(hit, match_probability=None, is_match=None, query_matches=None) == before


def test_the_verdict_on_a_query_is_the_same_on_all_its_pages(engine: SearchEngine) -> None:
    for text in ("image 7", "quite another text"):
        (first,) = engine.search(text, k=1)
        assert first.query_matches is first.is_match
        pages = [
            engine.search(text, k=k, offset=offset) for k, offset in ((5, 1), (120, 0), (9, 60))
        ]
        assert {hit.query_matches for page in pages for hit in page} == {first.is_match}
    assert engine.search("image 7", k=1)[0].query_matches is True
    assert engine.search("quite another text", k=1)[0].query_matches is False


def test_only_a_query_of_one_text_has_a_verdict(engine: SearchEngine) -> None:
    hits = engine.search("image 7", image=bytes([7]), k=3)
    assert {(hit.match_probability, hit.query_matches) for hit in hits} == {(None, None)}
