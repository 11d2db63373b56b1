"""Calibration: its threshold keeps the stated rate, and its probability is monotone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float

from coca.core.errors import ArgumentError, ConfigError, DataError, SearchError
from coca.search.milvus.collection import Collection
from coca.search.predictor import Embedder
from coca.search.query.engine import SearchEngine
from coca.search.query.match import (
    SCORED_HITS,
    Calibration,
    Measures,
    fit,
    mark_named,
    mutual_information,
    quantile_above,
)
from coca.search.query.query_terms import Term
from coca.search.records import Hit, Origin, Record, content_id

MADE = Calibration(
    fingerprint="model-one",
    cosine_weight=8.0,
    pmi_weight=0.25,
    bias=-3.0,
    threshold=0.75,
    false_alarms=0.05,
    samples=("a", "b"),
    records=10,
    matching=6,
    other={"others": 40},
    found=0.5,
)


def drawn(random: np.random.Generator, count: int, hits: int, shift: float) -> Measures:
    """Measures of a model whose matches have a higher cosine and a higher mutual information."""
    cosine = random.normal(0.2 + 0.1 * shift, 0.1, (count, hits))
    return Measures(cosine, random.normal(2 * shift, 2, (count, hits)))


def fitted(random: np.random.Generator, count: int, rate: float, **changes: Any) -> Calibration:
    settings: dict[str, Any] = {"fingerprint": "m", "samples": ("a", "b"), "records": 9}
    return fit(
        drawn(random, count, 1, 1.5),
        {"others": drawn(random, count, 8, 0.0)},
        shown=np.ones(count, bool),
        false_alarms=rate,
        **settings | changes,
    )


@pytest.mark.parametrize(("count", "rate"), [(40, 0.05), (41, 0.2), (200, 0.1)])
def test_texts_that_match_nothing_exceed_the_threshold_at_most_at_the_stated_rate(
    count: int, rate: float
) -> None:
    # Over many calibrations: with one of them, the rate varies with the texts that are held out.
    random, alarms, runs = np.random.default_rng(0), [], 150
    for _ in range(runs):
        made = fitted(random, count, rate)
        fresh = drawn(random, 400, 8, 0.0)
        best = made.probability(fresh.cosine, fresh.pmi).max(axis=1)
        alarms.append(float(np.mean(best > made.threshold)))
    error = float(np.std(alarms)) / runs**0.5
    assert np.mean(alarms) <= rate + 3 * error
    # The finite-sample correction costs at most one of the texts that are held out.
    assert np.mean(alarms) >= rate - 1 / (count // 2 + 1) - 3 * error


def test_the_combination_finds_more_than_one_measure_alone() -> None:
    random = np.random.default_rng(1)
    matching, other = drawn(random, 2000, 1, 1.5), drawn(random, 2000, 8, 0.0)
    found = []
    for with_cosine, with_pmi in ((1, 1), (1, 0), (0, 1)):
        own, others = (
            Measures(with_cosine * some.cosine, with_pmi * some.pmi) for some in (matching, other)
        )
        made = fit(
            own,
            {"others": others},
            shown=np.ones(2000, bool),
            false_alarms=0.05,
            fingerprint="m",
            samples=("a", "b"),
            records=9,
        )
        found.append(made.found)
    assert found[0] > 1.2 * max(found[1:])


def test_a_measure_that_misleads_has_no_weight() -> None:
    random = np.random.default_rng(2)
    matching, other = drawn(random, 400, 1, 1.0), drawn(random, 400, 8, 0.0)
    made = fit(
        replace(matching, cosine=-matching.cosine),
        {"others": replace(other, cosine=-other.cosine)},
        shown=np.ones(400, bool),
        false_alarms=0.05,
        fingerprint="m",
        samples=("a", "b"),
        records=9,
    )
    assert made.cosine_weight == 0
    assert made.pmi_weight > 0


def test_the_probability_is_that_of_a_hit_if_half_of_the_texts_have_a_match() -> None:
    random, count = np.random.default_rng(3), 40_000
    made = fitted(random, 4000, 0.05)
    own = drawn(random, count, 1, 1.5)
    # Half of the texts have one match and seven other hits, half of them have eight others.
    others = drawn(random, 15 * count, 1, 0.0)
    yes = made.probability(own.cosine, own.pmi)
    no = made.probability(others.cosine, others.pmi)
    for low in np.arange(0.1, 0.9, 0.1):
        found = [int(((some > low) & (some <= low + 0.1)).sum()) for some in (yes, no)]
        assert found[0] / sum(found) == pytest.approx(low + 0.05, abs=0.05)


@given(cosine=st.floats(-1, 1), pmi=st.floats(-50, 50), more=st.floats(0, 1), nats=st.floats(0, 50))
def test_the_probability_is_monotone_in_both_measures(
    cosine: float, pmi: float, more: float, nats: float
) -> None:
    low, *higher = MADE.probability(
        np.array([cosine, cosine + more, cosine]), np.array([pmi, pmi, pmi + nats])
    )
    assert 0 <= low <= 1
    assert all(low <= one <= 1 for one in higher)


def test_the_quantile_is_the_one_of_split_conformal_prediction() -> None:
    scores = np.arange(1.0, 20.0)  # 19 of them: the 20th exceeds the highest in 1 of 20 cases
    assert quantile_above(scores, 0.05) == 19
    assert quantile_above(scores[::-1], 0.1) == 18
    assert quantile_above(scores, 0.5) == 10
    with pytest.raises(ValueError, match=r"19 scores have no quantile at a rate of 0\.04"):
        quantile_above(scores, 0.04)


def test_mutual_information_leaves_a_sample_out_of_its_own_mean() -> None:
    log_p = np.log(np.array([0.4, 0.1]))
    samples = np.log(np.array([0.1, 0.3]))
    found = mutual_information(log_p, samples, np.array([[False, False], [True, False]]))
    assert found == pytest.approx(np.log([0.4 / 0.2, 0.1 / 0.3]))


def test_too_few_texts_are_refused() -> None:
    random = np.random.default_rng(4)
    with pytest.raises(SearchError, match=r"needs at least 38 texts that match nothing.*got 37"):
        fitted(random, 37, 0.05)
    with pytest.raises(ArgumentError, match=r"must be in \(0, 1\), got 1"):
        fitted(random, 40, 1.0)


def test_a_source_with_too_few_texts_is_ignored() -> None:
    random = np.random.default_rng(5)
    other = {"many": drawn(random, 40, 8, 0.0), "few": drawn(random, 30, 8, 3.0)}
    made = fit(
        drawn(random, 40, 1, 1.5),
        other,
        shown=np.ones(40, bool),
        false_alarms=0.05,
        fingerprint="m",
        samples=("a", "b"),
        records=9,
    )
    assert made.other == {"many": 40}


def test_a_calibration_is_stored_with_its_collection(
    make_index: Callable[..., Collection], fresh: str
) -> None:
    collection = make_index(collection=fresh)
    assert Calibration.of(collection.info, fingerprint="model-one") is None
    collection.keep_calibration(MADE.to_json())
    assert Calibration.of(collection.describe(), fingerprint="model-one") == MADE
    collection.close()
    again = make_index(collection=fresh)
    assert Calibration.of(again.info, fingerprint="model-one") == MADE
    again.keep_calibration("")
    assert Calibration.of(again.info, fingerprint="model-one") is None


def test_a_calibration_of_another_model_or_form_is_refused(collection: Collection) -> None:
    info = replace(collection.info, calibration=MADE.to_json())
    with pytest.raises(SearchError, match="is of model model-one, and not of model-two: `coca"):
        Calibration.of(info, fingerprint="model-two")
    for text in ("{", "{}", MADE.to_json().replace("0.75", "7.5")):
        with pytest.raises(SearchError, match=r"cannot be read.*`coca collection calibrate"):
            Calibration.of(replace(info, calibration=text), fingerprint="model-one")


def test_a_weight_below_0_is_refused() -> None:
    with pytest.raises(ConfigError, match="pmi_weight must be"):
        replace(MADE, pmi_weight=-1.0)


# Marks of hits: which of them are scored, in which passes, and what becomes of lost images.


COUNT = 50


def log_p(image: bytes, text: str) -> float:
    return -float((image[-1] * 7 + len(text)) % 13)


class Writer:
    """Embedder of the tests that also scores captions, by the bytes of the image."""

    logit_scale = 10.0

    def __init__(self, embedder: Any) -> None:
        self.fingerprint, self.embed_dim = embedder.fingerprint, embedder.embed_dim
        self.embed_images, self.embed_texts = embedder.embed_images, embedder.embed_texts
        self.passes: list[int] = []

    def score(self, images: Sequence[Any], texts: Sequence[str]) -> Float[np.ndarray, "N M"]:
        self.passes.append(len(images))
        return np.array([[log_p(image, text) for text in texts] for image in images])


@pytest.fixture
def files() -> dict[str, bytes]:
    return {f"{n}.jpg": bytes([n]) for n in range(COUNT)}


@pytest.fixture
def writer(embedder: Embedder) -> Writer:
    return Writer(embedder)


@pytest.fixture
def engine(
    collection: Collection, writer: Writer, embedder: Any, files: dict[str, bytes]
) -> Iterator[SearchEngine]:
    collection.upsert(
        Record(id=content_id(data), path=path, vector=embedder.direction(data), caption=path)
        for path, data in files.items()
    )
    made = Calibration(
        fingerprint=writer.fingerprint,
        cosine_weight=2.0,
        pmi_weight=0.5,
        bias=0.0,
        threshold=0.6,
        false_alarms=0.05,
        samples=tuple(content_id(bytes([n])) for n in (3, 4, 5)),
        records=COUNT,
        matching=9,
        other={"others": 40},
        found=0.5,
    )
    collection.keep_calibration(made.to_json())

    def read(path: str, etag: str) -> bytes:
        if path not in files:
            raise DataError(f"{path} is gone")
        return files[path]

    yield SearchEngine(writer, collection, image_reader=lambda: read)
    collection.keep_calibration("")


def test_the_first_hits_are_marked_in_one_pass(engine: SearchEngine, writer: Writer) -> None:
    plain = engine.search("a text", k=COUNT, match=False)
    assert {hit.is_match for hit in plain} == {None}
    assert writer.passes == []
    hits = engine.search("a text", k=COUNT)
    assert len(writer.passes) == 1
    assert SCORED_HITS <= writer.passes[0] <= SCORED_HITS + 3
    assert [hit.id for hit in hits] == [hit.id for hit in plain]
    assert [hit.match_probability is None for hit in hits] == [
        rank >= SCORED_HITS for rank in range(COUNT)
    ]
    assert {hit.is_match for hit in hits[:SCORED_HITS]} == {True, False}


def test_the_probability_is_that_of_a_hand_calculation(engine: SearchEngine) -> None:
    hits = engine.search("a text", k=20)
    samples = [bytes([n]) for n in (3, 4, 5)]
    for hit in hits:
        image = bytes([int(hit.path.removesuffix(".jpg"))])
        (pmi,) = mutual_information(
            np.array([log_p(image, "text")]),
            np.array([log_p(sample, "text") for sample in samples]),
            np.array([[image == sample for sample in samples]]),
        )
        expected = 1 / (1 + np.exp(-2 * hit.score - 0.5 * pmi))
        assert hit.match_probability == pytest.approx(expected, abs=1e-5)
        assert hit.is_match == (expected > 0.6)


def test_a_hit_whose_given_caption_has_all_words_matches(
    engine: SearchEngine, writer: Writer, embedder: Any, files: dict[str, bytes]
) -> None:
    changed = {"given": ("two Lion cubs", Origin()), "model": ("a lion", Origin(captioned=True))}
    plain = {hit.id: hit for hit in engine.search("lions", k=COUNT)}
    weak = next(hit.path for hit in plain.values() if hit.is_match is False)
    data = files[weak]
    for source, (caption, origin) in changed.items():
        engine.collection.upsert(  # type: ignore[attr-defined]
            [
                Record(
                    id=content_id(data),
                    path=weak,
                    vector=embedder.direction(data),
                    caption=caption,
                    origin=origin,
                )
            ]
        )
        hits = {hit.path: hit for hit in engine.search("lions", k=COUNT, hybrid=True)}
        assert hits[weak].is_match is (source == "given")
        assert hits[weak].match_probability == plain[content_id(data)].match_probability


@pytest.mark.parametrize(
    ("query", "caption", "expected"),
    [
        ("a dog runs on the grass", "Two dogs run in grass.", True),
        ("a dog runs on the grass", "a dog on the beach", False),
        ("no dog", "a dog", False),
        ("a vitamin a pill", "vitamin pill", True),
        ("vitamin a", "vitamin c", False),
        ("vitamin a", "a vitamin", True),
    ],
)
def test_function_words_of_a_query_need_not_be_in_the_caption(
    query: str, caption: str, expected: bool
) -> None:
    unnamed = Hit(id="1", score=0.2, path="1.jpg", caption=caption, metadata={}, is_match=False)
    hit = replace(unnamed, caption_source="given", bm25=1.0)
    named, without_words = mark_named([hit, replace(hit, bm25=None)], [query])
    assert named.is_match is expected
    assert without_words.is_match is False


def test_a_mark_does_not_depend_on_the_other_hits(engine: SearchEngine) -> None:
    whole = {hit.id: hit.match_probability for hit in engine.search("a text", k=20)}
    pages: list[dict[str, Any]] = [
        {"k": 3},
        {"k": 5, "offset": 4},
        {"k": 5, "rerank": 20},
        {"k": 4, "filter": 'path != "1.jpg"'},
    ]
    for options in pages:
        for hit in engine.search("a text", **options):
            if hit.id in whole:
                assert hit.match_probability == pytest.approx(whole[hit.id], abs=1e-5)


def test_reranked_hits_are_not_scored_twice(engine: SearchEngine, writer: Writer) -> None:
    engine.search("a text", k=10, rerank=20)
    assert writer.passes[0] == 20
    assert sum(writer.passes[1:]) <= 3


@pytest.mark.parametrize(
    "query",
    [
        {"image": b"1"},
        {"text": "a", "image": b"1"},
        {"terms": [Term(text="a"), Term(text="b", weight=-0.5)]},
    ],
)
def test_only_a_query_of_one_text_is_marked(engine: SearchEngine, query: dict[str, Any]) -> None:
    assert {hit.is_match for hit in engine.search(**query)} == {None}


def test_lost_images_have_no_mark(
    engine: SearchEngine, files: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = engine.search("a text", k=2)[0]
    del files[first.path]
    assert [hit.is_match is None for hit in engine.search("a text", k=2)] == [True, False]
    assert f"since {first.path} is gone" in caplog.text
    for n in (3, 4, 5):
        files.pop(f"{n}.jpg", None)
    assert {hit.is_match for hit in engine.search("a text", k=2)} == {None}
    assert "0 of 3 sample images" in caplog.text


def test_a_model_that_writes_no_captions_searches_as_before(
    engine: SearchEngine, embedder: Embedder
) -> None:
    plain = SearchEngine(embedder, engine.collection)
    assert {hit.is_match for hit in plain.search("a text")} == {None}


def test_a_calibration_of_another_model_is_refused(
    engine: SearchEngine, collection: Collection
) -> None:
    collection.keep_calibration(collection.info.calibration.replace("model-one", "model-two"))
    with pytest.raises(SearchError, match="is of model model-two, and not of model-one"):
        engine.search("a text")
    assert engine.search("a text", match=False)
