"""Marks of hits: which of them are scored, in which passes, and what becomes of lost images."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float

from coca.core.errors import DataError, SearchError
from coca.search.milvus.collection import Collection
from coca.search.query.calibration.mark_matches import mark_named
from coca.search.query.calibration.match_score import SCORED_HITS, Calibration, mutual_information
from coca.search.query.engine import Embedder, SearchEngine
from coca.search.query.query_terms import Term
from coca.search.records import Hit, Origin, Record, content_id

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
    index: Collection, writer: Writer, embedder: Any, files: dict[str, bytes]
) -> Iterator[SearchEngine]:
    index.upsert(
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
    index.keep_calibration(made.to_json())

    def read(path: str, etag: str) -> bytes:
        if path not in files:
            raise DataError(f"{path} is gone")
        return files[path]

    yield SearchEngine(writer, index, image_reader=lambda: read)
    index.keep_calibration("")


def test_the_first_hits_are_marked_in_one_pass(engine: SearchEngine, writer: Writer) -> None:
    plain = engine.search("a text", k=COUNT, match=False)
    assert {hit.matches for hit in plain} == {None}
    assert writer.passes == []
    hits = engine.search("a text", k=COUNT)
    assert len(writer.passes) == 1
    assert SCORED_HITS <= writer.passes[0] <= SCORED_HITS + 3
    assert [hit.id for hit in hits] == [hit.id for hit in plain]
    assert [hit.match_probability is None for hit in hits] == [
        rank >= SCORED_HITS for rank in range(COUNT)
    ]
    assert {hit.matches for hit in hits[:SCORED_HITS]} == {True, False}


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
        assert hit.matches == (expected > 0.6)


def test_a_hit_whose_given_caption_has_all_words_matches(
    engine: SearchEngine, writer: Writer, embedder: Any, files: dict[str, bytes]
) -> None:
    changed = {"given": ("two Lion cubs", Origin()), "model": ("a lion", Origin(captioned=True))}
    plain = {hit.id: hit for hit in engine.search("lions", k=COUNT)}
    weak = next(hit.path for hit in plain.values() if hit.matches is False)
    data = files[weak]
    for source, (caption, origin) in changed.items():
        engine.index.upsert(  # type: ignore[attr-defined]
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
        assert hits[weak].matches is (source == "given")
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
    unnamed = Hit(id="1", score=0.2, path="1.jpg", caption=caption, metadata={}, matches=False)
    hit = replace(unnamed, caption_source="given", bm25=1.0)
    named, without_words = mark_named([hit, replace(hit, bm25=None)], [query])
    assert named.matches is expected
    assert without_words.matches is False


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
    assert {hit.matches for hit in engine.search(**query)} == {None}


def test_lost_images_have_no_mark(
    engine: SearchEngine, files: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = engine.search("a text", k=2)[0]
    del files[first.path]
    assert [hit.matches is None for hit in engine.search("a text", k=2)] == [True, False]
    assert f"since {first.path} is gone" in caplog.text
    for n in (3, 4, 5):
        files.pop(f"{n}.jpg", None)
    assert {hit.matches for hit in engine.search("a text", k=2)} == {None}
    assert "0 of 3 sample images" in caplog.text


def test_a_model_that_writes_no_captions_searches_as_before(
    engine: SearchEngine, embedder: Embedder
) -> None:
    plain = SearchEngine(embedder, engine.index)
    assert {hit.matches for hit in plain.search("a text")} == {None}


def test_a_calibration_of_another_model_is_refused(engine: SearchEngine, index: Collection) -> None:
    index.keep_calibration(index.info.calibration.replace("model-one", "model-two"))
    with pytest.raises(SearchError, match="is of model model-two, and not of model-one"):
        engine.search("a text")
    assert engine.search("a text", match=False)
