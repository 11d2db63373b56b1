import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ConfigError, SearchError
from coca.search.milvus.collection import Collection
from coca.search.query import fusion as fusion_module
from coca.search.query.engine import SearchEngine
from coca.search.query.fusion import (
    BM25Index,
    Captions,
    coverage,
    fuse,
    search_hybrid,
    split_words,
    typed_fusion,
    word_search,
)
from coca.search.query.query_terms import Term
from coca.search.records import Hit, Origin, Record
from coca.search.search_options import Fusion

WORDS = ["red", "car", "blue", "sky", "dog", "the", "a", "of", "snow"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), max_size=12)


def bm25_by_hand(texts: list[str], query: str) -> list[float]:
    """Compute BM25 in Lucene's form of Robertson's formula."""
    split = [text.split() for text in texts]
    mean = sum(map(len, split)) / max(len(split), 1)
    scores = [0.0] * len(texts)
    for word in query.split():
        holders = sum(word in words for words in split)
        rarity = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5))
        for row, words in enumerate(split):
            if count := Counter(words)[word]:
                length = 1.2 * (1 - 0.75 + 0.75 * len(words) / mean)
                scores[row] += rarity * count / (count + length)
    return scores


@given(TEXTS, st.lists(st.sampled_from(["red", "car", "the", "zebra"]), max_size=4).map(" ".join))
def test_scores_are_those_of_the_formula(texts: list[str], query: str) -> None:
    assert BM25Index(texts).scores(query).tolist() == pytest.approx(
        bm25_by_hand(texts, query), abs=1e-5
    )


def test_case_and_the_form_of_letters_make_no_difference() -> None:
    assert split_words("A Red-CAR, naïve; Straße 12") == [
        "a",
        "red",
        "car",
        "naïve",
        "strasse",
        "12",
    ]
    texts = ["Ein Caf\u00e9", "two dogs"]
    assert BM25Index(texts).scores("CAFE\u0301").argmax() == 0


def test_texts_without_words_and_queries_without_words_score_0() -> None:
    for texts in ([], [""], ["", "!?"], ["", "a dog"]):
        assert BM25Index(texts).scores("cat ?").tolist() == [0] * len(texts)
        assert BM25Index(texts).scores("").tolist() == [0] * len(texts)


def test_building_an_index_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        BM25Index(["a red car", "a frog"])
    assert caplog.records == []


def test_the_fraction_of_words_that_a_text_has() -> None:
    red_cars = [("red",), ("Cars", "car")]
    assert coverage(red_cars, "A red CAR, and cars") == 1.0
    assert coverage(red_cars, "police car") == coverage(red_cars, "red") == 0.5
    assert coverage(red_cars, "carpet") == 0.0
    # A word of two parts needs both; punctuation alone is not a word.
    assert coverage([("t-shirt",), ("&",)], "a shirt") == 0.0
    assert coverage([("t-shirt",), ("&",)], "shirt, t") == 1.0
    assert coverage([("?",)], "cat") == coverage([], "cat") == 1.0


def ranking(**scores: float) -> list[Hit]:
    return [
        Hit(id=id, score=score, path=f"{id}.jpg", caption="", metadata={})
        for id, score in sorted(scores.items(), key=lambda item: -item[1])
    ]


# Numbers only: type checks of hits draw random samples, which a strategy must not.
SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-9, 50).map(float), max_size=8)
FUSIONS = st.builds(Fusion, method=st.sampled_from(["rrf", "scores"]), constant=st.integers(1, 90))


def test_reciprocal_ranks_by_hand() -> None:
    vectors, words = ranking(a=0.9, b=0.8, c=0.1), ranking(c=12.0, a=3.0)
    fused = fuse([vectors, words], [0.5, 0.5], Fusion(method="rrf"))
    assert [hit.id for hit in fused] == ["a", "c", "b"]
    by_hand = [0.5 / 61 + 0.5 / 62, 0.5 / 63 + 0.5 / 61, 0.5 / 62]
    assert [hit.fused_score for hit in fused] == pytest.approx(by_hand)
    assert [hit.score for hit in fused] == [0.9, 0.1, 0.8]


def test_scores_by_hand() -> None:
    vectors, words = ranking(a=0.9, b=0.5, c=0.1), ranking(c=12.0, a=3.0)
    fused = fuse([vectors, words], [0.75, 0.25], Fusion())
    assert {hit.id: hit.fused_score for hit in fused} == pytest.approx(
        {"a": 0.75, "b": 0.375, "c": 0.25}
    )


def test_a_caption_with_some_of_the_words_gets_this_part_of_the_last_ranking() -> None:
    vectors, words = ranking(a=0.9, b=0.5, c=0.1), ranking(c=12.0, b=9.0, a=3.0)
    share = {"a": 1.0, "b": 0.5, "c": 0.5}
    fused = fuse([vectors, words], [0.75, 0.25], Fusion(), coverage=lambda hit: share[hit.id])
    assert {hit.id: hit.fused_score for hit in fused} == pytest.approx(
        {"a": 0.75, "b": 0.375 + 0.25 * 0.5 * 6 / 9, "c": 0.25 * 0.5}
    )
    by_rank = Fusion(method="rrf")
    fused = fuse([vectors, words], [0.75, 0.25], by_rank, coverage=lambda hit: share[hit.id])
    assert fused == fuse([vectors, words], [0.75, 0.25], by_rank)


def test_an_image_without_a_caption_is_ranked_by_its_image_alone() -> None:
    images, captions = ranking(a=0.9, b=0.5, c=0.1), ranking(c=12.0, a=9.0, d=8.0, b=2.0)
    fusion = Fusion(uncaptioned=0.5)
    fused = fuse([images, captions], [0.25, 0.75], fusion, has_all=lambda hit: hit.id not in "ad")
    # `d` has no caption either, so the captions do not find it.
    assert {hit.id: hit.fused_score for hit in fused} == pytest.approx(
        {"a": 0.25 + 0.5 * 0.75, "b": 0.25 * 0.5, "c": 0.75}
    )
    alone = fuse([images, captions], [0.25, 0.75], fusion, has_all=lambda hit: False)
    assert [hit.id for hit in alone] == [hit.id for hit in images]


@given(SCORES, FUSIONS)
def test_a_ranking_joined_with_nothing_keeps_its_order(
    scores: dict[str, float], fusion: Fusion
) -> None:
    one = ranking(**scores)
    for other, weights in (([], [0.5, 0.5]), (one[::-1], [1.0, 0.0])):
        fused = fuse([one, other], weights, fusion)
        assert {hit.id for hit in fused} == {hit.id for hit in one}
        scores = {hit.id: hit.score for hit in one}
        assert [scores[hit.id] for hit in fused] == sorted(scores.values(), reverse=True)


@given(SCORES, SCORES, FUSIONS)
def test_all_hits_are_kept_once_and_the_order_of_rankings_does_not_matter(
    scores: dict[str, float], others: dict[str, float], fusion: Fusion
) -> None:
    one, other = ranking(**scores), ranking(**others)
    fused = fuse([one, other], [0.5, 0.5], fusion)
    assert len(fused) == len({hit.id for hit in [*one, *other]})
    turned = fuse([other, one], [0.5, 0.5], fusion)
    fused_scores = [(hit.id, hit.fused_score) for hit in fused]
    assert [(hit.id, hit.fused_score) for hit in turned] == fused_scores


@given(SCORES, FUSIONS)
def test_only_the_scale_of_scores_may_differ(scores: dict[str, float], fusion: Fusion) -> None:
    one = ranking(**scores)
    louder = [Hit(id=h.id, score=4 * h.score, path=h.path, caption="", metadata={}) for h in one]
    before, after = (fuse([hits], [1.0], fusion) for hits in (one, louder))
    assert [hit.id for hit in after] == [hit.id for hit in before]
    assert [hit.fused_score for hit in after] == pytest.approx([hit.fused_score for hit in before])


@pytest.mark.parametrize(
    "wrong", [{"text_weight": 1.5}, {"text_weight": math.nan}, {"constant": 0}]
)
def test_a_fusion_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} must be a "):
        Fusion(**wrong)  # type: ignore[arg-type]


CAPTIONS = ["a red car", "a red red car in snow", "two dogs", "", "the car"]


@pytest.fixture
def captioned(collection: Collection, make_record: Callable[..., Record]) -> Collection:
    collection.upsert(
        make_record(f"{n}", caption=caption, metadata={"n": n})
        for n, caption in enumerate(CAPTIONS)
    )
    return collection


def test_captions_that_share_a_word_are_found_the_best_first(captioned: Collection) -> None:
    hits = Captions(captioned).full_text_search("red CAR")
    assert [hit.id for hit in hits] == ["0", "1", "4"]
    assert [hit.caption for hit in hits] == [CAPTIONS[int(hit.id)] for hit in hits]
    assert hits[0].score > hits[1].score > hits[2].score > 0
    assert Captions(captioned).full_text_search("zebra") == []


def test_pages_and_filters_cut_the_same_ranking(captioned: Collection) -> None:
    captions = Captions(captioned)
    everything = captions.full_text_search("red car dogs")
    assert captions.full_text_search("red car dogs", 2, offset=1) == everything[1:3]
    kept = captions.full_text_search("red car dogs", filter='metadata["n"] >= 1')
    assert kept == [hit for hit in everything if hit.metadata["n"] >= 1]


def test_what_was_written_meanwhile_is_found(
    captioned: Collection, make_record: Callable[..., Record]
) -> None:
    captions = Captions(captioned)
    captioned.upsert([make_record("0", caption="a zebra")])
    assert [hit.id for hit in captions.full_text_search("zebra")] == ["0"]
    captioned.delete(["0"])
    assert captions.full_text_search("zebra") == []
    whole = Captions(captioned).full_text_search("a red car dogs")
    assert captions.full_text_search("a red car dogs") == whole


def test_only_what_was_written_is_read_again(
    captioned: Collection, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = Captions(captioned)
    read: list[Any] = []
    origins = Collection.origins

    def counted(self: Collection, ids: Any = None) -> Any:
        read.append(ids)
        return origins(self, ids)

    monkeypatch.setattr(Collection, "origins", counted)
    captioned.upsert([make_record("9", caption="a zebra")])
    assert [hit.id for hit in captions.full_text_search("zebra")] == ["9"]
    assert read == [{"9"}]


def test_captions_of_a_model_are_left_out_where_given_captions_are_ranked(
    captioned: Collection, make_record: Callable[..., Record]
) -> None:
    captions = Captions(captioned, "given")
    written = Origin(captioned=True)
    captioned.upsert([make_record("9", caption="a red car", origin=written)])
    assert [hit.id for hit in captions.full_text_search("red car")] == ["0", "1", "4"]


def test_searches_go_on_while_what_others_may_have_replaced_is_read(
    captioned: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions, began, may_end = Captions(captioned), Event(), Event()
    origins = Collection.origins

    def slow(captioned: Collection) -> Any:
        began.set()
        assert may_end.wait(240)
        return origins(captioned)

    monkeypatch.setattr(Collection, "origins", slow)
    monkeypatch.setattr(Collection, "sees_all_writes", False)
    try:
        deadline = time.monotonic() + 240
        while not began.is_set():
            assert time.monotonic() < deadline
            assert [hit.id for hit in captions.full_text_search("dogs")] == ["2"]
        assert [hit.id for hit in captions.full_text_search("dogs")] == ["2"]
    finally:
        may_end.set()
    captions.refresh()


def test_the_number_of_records_is_asked_once_a_search(
    captioned: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions, asked = Captions(captioned), 0
    # On Lite, where all writers are known, it is not asked at all.
    monkeypatch.setattr(Collection, "sees_all_writes", False)

    def one_more(captioned: Collection, filter: str = "") -> int:
        nonlocal asked
        asked += 1
        return len(CAPTIONS) + 1

    monkeypatch.setattr(Collection, "count", one_more)
    assert [hit.id for hit in captions.full_text_search("dogs")] == ["2"]
    assert asked == 1


@pytest.fixture
def engine(
    embedder: Any, collection: Collection, make_record: Callable[..., Record]
) -> SearchEngine:
    collection.upsert(
        make_record(f"{n}", caption=f"image {n % 7} of {n}", metadata={"n": n}) for n in range(40)
    )
    return SearchEngine(embedder, collection)


def test_each_image_gets_the_reciprocals_of_both_its_ranks(
    engine: SearchEngine, embedder: Any
) -> None:
    captions = word_search(engine.collection)
    near_8 = [Term(vector=embedder.direction(b"8"))]
    by_hand: dict[str, float] = {}
    for ranking in (engine.search(terms=near_8, k=40), captions.full_text_search("3 17", 40)):
        for rank, hit in enumerate(ranking, start=1):
            by_hand[hit.id] = by_hand.get(hit.id, 0) + 0.5 / (60 + rank)
    fusion = Fusion(method="rrf", text_weight=0.5)
    words = [("3",), ("17",)]
    hits = search_hybrid(
        engine.collection, captions, words, engine.query(near_8), fusion=fusion, k=40
    )
    assert {hit.id: hit.fused_score for hit in hits} == pytest.approx(by_hand)
    assert [hit.fused_score for hit in hits] == sorted(by_hand.values(), reverse=True)


def test_captions_rank_by_vector_and_by_words(
    collection: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    collection.upsert(
        make_record(
            f"{n}",
            caption=f"image {n}",
            text_vector=embedder.direction(str(n * n % 12).encode()),
            origin=Origin(captioned=n % 4 == 3),
        )
        for n in range(12)
    )
    engine = SearchEngine(embedder, collection)
    fusion = Fusion(captions="given", text_weight=0.6, vector_share=0.25, uncaptioned=0.5)
    query = engine.query([Term(vector=embedder.direction(b"4"))])
    by_words = word_search(collection, "given")
    by_hand: dict[str, float] = {}
    rankings = (
        (0.4, collection.search(query, 12)[0]),
        (0.15, collection.search(query, 12, on="text")[0]),
        (0.45, by_words.full_text_search("2 5 five", 12)),
    )
    for weight, ranking in rankings:
        scores = [hit.score for hit in ranking]
        for hit in ranking:
            span = max(scores) - min(scores)
            gain = (hit.score - min(scores)) / span if span else 1.0
            given = hit.caption_source == "given"
            factor = weight if given else 0.7 if weight == 0.4 else 0.0
            # Each caption has one of the two words.
            factor *= 0.5 if weight == 0.45 else 1.0
            by_hand[hit.id] = by_hand.get(hit.id, 0.0) + factor * gain
    words = [("2",), ("five", "5")]
    hits = search_hybrid(collection, by_words, words, query, fusion=fusion, k=12)
    assert {hit.id: hit.fused_score for hit in hits} == pytest.approx(by_hand, abs=1e-6)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(
        {hit.id: hit.score for hit in rankings[0][1]}, abs=1e-5
    )


def test_a_caption_with_one_of_two_words_gets_half_of_the_part_of_the_words(
    collection: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    captions = ["police car", "cat", "dog"]
    collection.upsert(make_record(f"{n}", caption=caption) for n, caption in enumerate(captions))
    engine = SearchEngine(embedder, collection)
    words_alone = Fusion(text_weight=1.0, vector_share=0.0)
    for query, expected in (("car", 1.0), ("cars", 1.0), ("red cars", 0.5), ("red old car", 1 / 3)):
        (hit,) = engine.search(query, fusion=words_alone)
        assert hit.caption == "police car"
        assert hit.fused_score == pytest.approx(expected), query


def test_a_hit_has_the_cosine_and_bm25_whichever_ranking_found_it(
    engine: SearchEngine, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion_module, "DEPTHS", (4,))
    words = {
        hit.id: hit.score for hit in word_search(engine.collection).full_text_search("17 3", 4)
    }
    cosines = {hit.id: hit.score for hit in engine.search("17 3", k=40)}
    hits = engine.search("17 3", hybrid=True, k=8)
    assert any(hit.bm25 is None for hit in hits)
    assert {hit.id: hit.bm25 for hit in hits if hit.bm25 is not None} == words
    assert {hit.id for hit in hits} - set(list(cosines)[:4])
    assert [hit.score for hit in hits] == pytest.approx([cosines[hit.id] for hit in hits], abs=1e-5)


def test_a_weight_of_0_or_1_leaves_one_ranking(engine: SearchEngine, embedder: Any) -> None:
    captions = word_search(engine.collection)
    vectors = engine.search("image 3", hybrid=False, k=40)
    only = engine.search("image 3", fusion=Fusion(text_weight=0.0), k=40)
    assert [hit.id for hit in only] == [hit.id for hit in vectors]
    words = captions.full_text_search("17", 40)
    only = engine.search("17", fusion=Fusion(text_weight=1.0), k=40)
    assert [hit.id for hit in only] == [hit.id for hit in words]


def test_pages_cut_one_ranking_and_filters_hold_for_both(engine: SearchEngine) -> None:
    everything = engine.search("image 3", fusion=Fusion(), k=40)
    pages = [engine.search("image 3", fusion=Fusion(), k=8, offset=8 * n) for n in range(6)]
    assert [hit for page in pages for hit in page] == everything
    kept = engine.search("image 3", fusion=Fusion(), k=40, filter='metadata["n"] < 9')
    assert {hit.metadata["n"] for hit in kept} == set(range(9))


def test_only_given_captions_count_if_the_fusion_is_of_those(
    collection: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    written = Origin(captioned=True)
    records = [make_record(f"{n}", caption=f"image {n}", origin=written) for n in range(9)]
    collection.upsert([*records, make_record("9", caption="image given 9")])
    engine = SearchEngine(embedder, collection)
    fusion = Fusion(captions="given")
    # All have the word, but one was given.
    (first, *others) = engine.search("image", fusion=fusion, k=10)
    assert first.caption_source == "given"
    assert len(others) == 9
    # No given caption has the word: a dense search, with its scores and pages.
    dense = engine.search("4", hybrid=False, k=10)
    assert engine.search("4", fusion=fusion, k=10) == dense
    assert engine.search("4", fusion=fusion, k=3, offset=4) == dense[4:7]


def test_a_typed_query_reads_captions_of_small_collections_only(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = [Term(text="a car"), Term(text="night", weight=-0.3)]
    assert typed_fusion(engine.collection, typed) == Fusion(captions="given")
    assert typed_fusion(engine.collection, typed, "text") is None
    assert typed_fusion(engine.collection, typed[1:]) is None
    assert typed_fusion(engine.collection, [*typed, Term(image=b"3")]) is None
    assert typed_fusion(engine.collection, [*typed, Term(vector=np.eye(16)[0])]) is None
    default = engine.search("image 3", k=40)
    assert default == engine.search("image 3", fusion=Fusion(captions="given"), k=40)
    assert default != engine.search("image 3", hybrid=False, k=40)
    monkeypatch.setattr(fusion_module, "MANY_CAPTIONS", 0)
    assert typed_fusion(engine.collection, typed) is None
    assert engine.search("image 3", k=40) == engine.search("image 3", hybrid=False, k=40)


def test_given_captions_rank_alike_in_memory_and_by_a_filter(
    collection: Collection, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Origin(captioned=True)
    collection.upsert(
        make_record(f"{n}", caption=f"image {n} of {n % 3}", origin=written if n % 2 else Origin())
        for n in range(12)
    )
    wanted = {str(n) for n in range(0, 12, 2) if n % 3 == 2}
    in_memory = word_search(collection, "given")
    assert {hit.id for hit in in_memory.full_text_search("of 2", 12) if hit.id in wanted} == wanted
    assert all(int(hit.id) % 2 == 0 for hit in in_memory.full_text_search("of 2", 12))
    monkeypatch.setattr(collection, "info", replace(collection.info, server_version="2.6.0"))
    if collection.supports_full_text:
        filtered = word_search(collection, "given").full_text_search("of 2", 12)
        assert {hit.id for hit in filtered} == {str(n) for n in range(0, 12, 2)}


def test_pages_behind_the_first_depth_neither_overlap_nor_leave_gaps(
    collection: Collection,
    embedder: Any,
    make_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fusion_module, "DEPTHS", (16, 64, 256))
    collection.upsert(make_record(f"{n}", caption=f"image {n % 7} of {n}") for n in range(90))
    engine = SearchEngine(embedder, collection)
    for fusion in (
        Fusion(),
        Fusion(method="scores"),
        Fusion(text_weight=1.0),
        Fusion(text_weight=0.0),
    ):

        def found(k: int, offset: int, fusion: Fusion = fusion) -> list[Hit]:
            return engine.search("image 3", k=k, offset=offset, fusion=fusion)

        pages = [hit for offset in range(0, 100, 10) for hit in found(10, offset)]
        assert len(pages) == len({hit.id for hit in pages}) == 90
        assert pages == found(90, 0)


def test_a_page_that_cannot_be_is_refused(engine: SearchEngine) -> None:
    for k, offset, message in (
        (0, 0, "k must be a whole number of at least 1, got 0"),
        (1, -1, "offset must be a whole number of at least 0, got -1"),
        (10, 16_380, "k and offset must add up to at most 16,384, got 10 and 16,380"),
    ):
        with pytest.raises(SearchError, match=message):
            engine.search("3", k=k, offset=offset, fusion=Fusion())


def test_a_hybrid_search_needs_a_text(engine: SearchEngine) -> None:
    with pytest.raises(SearchError, match="add a text"):
        engine.search(vector=np.eye(16)[0], hybrid=True)


def test_a_min_score_goes_by_the_cosine_also_of_full_text_hits(
    engine: SearchEngine, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that some hits are found by full text only, and pages need several depths.
    monkeypatch.setattr(fusion_module, "DEPTHS", (4, 16, 64))
    everything = engine.search("image 3", fusion=Fusion(), k=40)
    query = embedder.direction(b"image 3")
    cosines = {id: float(query @ one.vector) for id, one in engine.collection.get(ids()).items()}
    for least in (-1.0, 0.0, 0.2):
        kept = engine.search("image 3", fusion=Fusion(), k=40, min_score=least)
        assert kept == [hit for hit in everything if cosines[hit.id] >= least]
        pages = [
            engine.search("image 3", fusion=Fusion(), k=8, offset=8 * n, min_score=least)
            for n in range(6)
        ]
        assert [hit for page in pages for hit in page] == kept


def test_one_image_of_each_album_is_the_first_of_it(
    collection: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    collection.upsert(
        make_record(f"{n}", caption=f"image {n % 7}", album=f"a{n % 5}" if n < 30 else "")
        for n in range(40)
    )
    engine = SearchEngine(embedder, collection)
    best: dict[str, Hit] = {}
    for hit in engine.search("image 3", fusion=Fusion(), k=40):
        best.setdefault(hit.album or hit.id, hit)
    grouped = engine.search("image 3", fusion=Fusion(), k=40, group_by="album")
    assert grouped == list(best.values())
    assert len(grouped) == 15
    asked = {"fusion": Fusion(), "group_by": "album", "k": 4}
    pages = [engine.search("image 3", offset=4 * n, **asked) for n in range(4)]  # type: ignore[arg-type]
    assert [hit for page in pages for hit in page] == grouped


def ids() -> list[str]:
    return [f"{n}" for n in range(40)]
