from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.milvus.collection import Collection
from coca.search.query.engine import SearchEngine
from coca.search.query.hybrid import hybrid_search
from coca.search.query.hybrid.fusion import Fusion
from coca.search.query.hybrid.hybrid_search import search_hybrid, typed_fusion, word_search
from coca.search.query.query_terms import Term
from coca.search.records import Hit, Origin, Record


@pytest.fixture
def engine(embedder: Any, index: Collection, make_record: Callable[..., Record]) -> SearchEngine:
    index.upsert(
        make_record(f"{n}", caption=f"image {n % 7} of {n}", metadata={"n": n}) for n in range(40)
    )
    return SearchEngine(embedder, index)


def test_each_image_gets_the_reciprocals_of_both_its_ranks(
    engine: SearchEngine, embedder: Any
) -> None:
    captions = word_search(engine.index)
    near_8 = [Term(vector=embedder.direction(b"8"))]
    by_hand: dict[str, float] = {}
    for ranking in (engine.search(terms=near_8, k=40), captions.full_text_search("3 17", 40)):
        for rank, hit in enumerate(ranking, start=1):
            by_hand[hit.id] = by_hand.get(hit.id, 0) + 0.5 / (60 + rank)
    fusion = Fusion(method="rrf", text_weight=0.5)
    words = [("3",), ("17",)]
    hits = search_hybrid(engine.index, captions, words, engine.query(near_8), fusion=fusion, k=40)
    assert {hit.id: hit.fused_score for hit in hits} == pytest.approx(by_hand)
    assert [hit.fused_score for hit in hits] == sorted(by_hand.values(), reverse=True)


def test_captions_rank_by_vector_and_by_words(
    index: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    index.upsert(
        make_record(
            f"{n}",
            caption=f"image {n}",
            text_vector=embedder.direction(str(n * n % 12).encode()),
            origin=Origin(captioned=n % 4 == 3),
        )
        for n in range(12)
    )
    engine = SearchEngine(embedder, index)
    fusion = Fusion(captions="given", text_weight=0.6, vector_share=0.25, uncaptioned=0.5)
    query = engine.query([Term(vector=embedder.direction(b"4"))])
    by_words = word_search(index, "given")
    by_hand: dict[str, float] = {}
    rankings = (
        (0.4, index.search(query, 12)[0]),
        (0.15, index.search(query, 12, on="text")[0]),
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
    hits = search_hybrid(index, by_words, words, query, fusion=fusion, k=12)
    assert {hit.id: hit.fused_score for hit in hits} == pytest.approx(by_hand, abs=1e-6)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(
        {hit.id: hit.score for hit in rankings[0][1]}, abs=1e-5
    )


def test_a_caption_with_one_of_two_words_gets_half_of_the_part_of_the_words(
    index: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    captions = ["police car", "cat", "dog"]
    index.upsert(make_record(f"{n}", caption=caption) for n, caption in enumerate(captions))
    engine = SearchEngine(embedder, index)
    words_alone = Fusion(text_weight=1.0, vector_share=0.0)
    for query, expected in (("car", 1.0), ("cars", 1.0), ("red cars", 0.5), ("red old car", 1 / 3)):
        (hit,) = engine.search(query, hybrid=words_alone)
        assert hit.caption == "police car"
        assert hit.fused_score == pytest.approx(expected), query


def test_a_hit_has_the_cosine_and_bm25_whichever_ranking_found_it(
    engine: SearchEngine, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid_search, "DEPTHS", (4,))
    words = {hit.id: hit.score for hit in word_search(engine.index).full_text_search("17 3", 4)}
    cosines = {hit.id: hit.score for hit in engine.search("17 3", k=40)}
    hits = engine.search("17 3", hybrid=True, k=8)
    assert any(hit.bm25 is None for hit in hits)
    assert {hit.id: hit.bm25 for hit in hits if hit.bm25 is not None} == words
    assert {hit.id for hit in hits} - set(list(cosines)[:4])
    assert [hit.score for hit in hits] == pytest.approx([cosines[hit.id] for hit in hits], abs=1e-5)


def test_a_weight_of_0_or_1_leaves_one_ranking(engine: SearchEngine, embedder: Any) -> None:
    captions = word_search(engine.index)
    vectors = engine.search("image 3", hybrid=False, k=40)
    only = engine.search("image 3", hybrid=Fusion(text_weight=0.0), k=40)
    assert [hit.id for hit in only] == [hit.id for hit in vectors]
    words = captions.full_text_search("17", 40)
    only = engine.search("17", hybrid=Fusion(text_weight=1.0), k=40)
    assert [hit.id for hit in only] == [hit.id for hit in words]


def test_pages_cut_one_ranking_and_filters_hold_for_both(engine: SearchEngine) -> None:
    everything = engine.search("image 3", hybrid=Fusion(), k=40)
    pages = [engine.search("image 3", hybrid=Fusion(), k=8, offset=8 * n) for n in range(6)]
    assert [hit for page in pages for hit in page] == everything
    kept = engine.search("image 3", hybrid=Fusion(), k=40, filter='metadata["n"] < 9')
    assert {hit.metadata["n"] for hit in kept} == set(range(9))


def test_only_given_captions_count_if_the_fusion_is_of_those(
    index: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    written = Origin(captioned=True)
    records = [make_record(f"{n}", caption=f"image {n}", origin=written) for n in range(9)]
    index.upsert([*records, make_record("9", caption="image given 9")])
    engine = SearchEngine(embedder, index)
    fusion = Fusion(captions="given")
    # All have the word, but one was given.
    (first, *others) = engine.search("image", hybrid=fusion, k=10)
    assert first.caption_source == "given"
    assert len(others) == 9
    # No given caption has the word: a dense search, with its scores and pages.
    dense = engine.search("4", hybrid=False, k=10)
    assert engine.search("4", hybrid=fusion, k=10) == dense
    assert engine.search("4", hybrid=fusion, k=3, offset=4) == dense[4:7]


def test_a_typed_query_reads_captions_of_small_collections_only(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = [Term(text="a car"), Term(text="night", weight=-0.3)]
    assert typed_fusion(engine.index, typed) == Fusion(captions="given")
    assert typed_fusion(engine.index, typed, "text") is False
    assert typed_fusion(engine.index, typed[1:]) is False
    assert typed_fusion(engine.index, [*typed, Term(image=b"3")]) is False
    assert typed_fusion(engine.index, [*typed, Term(vector=np.eye(16)[0])]) is False
    default = engine.search("image 3", k=40)
    assert default == engine.search("image 3", hybrid=Fusion(captions="given"), k=40)
    assert default != engine.search("image 3", hybrid=False, k=40)
    monkeypatch.setattr(hybrid_search, "MANY_CAPTIONS", 0)
    assert typed_fusion(engine.index, typed) is False
    assert engine.search("image 3", k=40) == engine.search("image 3", hybrid=False, k=40)


def test_given_captions_rank_alike_in_memory_and_by_a_filter(
    index: Collection, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Origin(captioned=True)
    index.upsert(
        make_record(f"{n}", caption=f"image {n} of {n % 3}", origin=written if n % 2 else Origin())
        for n in range(12)
    )
    wanted = {str(n) for n in range(0, 12, 2) if n % 3 == 2}
    in_memory = word_search(index, "given")
    assert {hit.id for hit in in_memory.full_text_search("of 2", 12) if hit.id in wanted} == wanted
    assert all(int(hit.id) % 2 == 0 for hit in in_memory.full_text_search("of 2", 12))
    monkeypatch.setattr(index, "info", replace(index.info, server_version="2.6.0"))
    if index.supports_full_text:
        filtered = word_search(index, "given").full_text_search("of 2", 12)
        assert {hit.id for hit in filtered} == {str(n) for n in range(0, 12, 2)}


def test_pages_behind_the_first_depth_neither_overlap_nor_leave_gaps(
    index: Collection,
    embedder: Any,
    make_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hybrid_search, "DEPTHS", (16, 64, 256))
    index.upsert(make_record(f"{n}", caption=f"image {n % 7} of {n}") for n in range(90))
    engine = SearchEngine(embedder, index)
    for fusion in (
        Fusion(),
        Fusion(method="scores"),
        Fusion(text_weight=1.0),
        Fusion(text_weight=0.0),
    ):

        def found(k: int, offset: int, fusion: Fusion = fusion) -> list[Hit]:
            return engine.search("image 3", k=k, offset=offset, hybrid=fusion)

        pages = [hit for offset in range(0, 100, 10) for hit in found(10, offset)]
        assert len(pages) == len({hit.id for hit in pages}) == 90
        assert pages == found(90, 0)


def test_a_page_that_cannot_be_is_refused(engine: SearchEngine) -> None:
    for k, offset in ((0, 0), (1, -1), (10, 16_380)):
        with pytest.raises(SearchError, match=f"k={k} with offset={offset}: .* at most 16,384"):
            engine.search("3", k=k, offset=offset, hybrid=Fusion())


def test_a_hybrid_search_needs_a_text(engine: SearchEngine) -> None:
    with pytest.raises(SearchError, match="add a text"):
        engine.search(vector=np.eye(16)[0], hybrid=True)


def test_a_min_score_goes_by_the_cosine_also_of_full_text_hits(
    engine: SearchEngine, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that some hits are found by full text only, and pages need several depths.
    monkeypatch.setattr(hybrid_search, "DEPTHS", (4, 16, 64))
    everything = engine.search("image 3", hybrid=Fusion(), k=40)
    query = embedder.direction(b"image 3")
    cosines = {id: float(query @ one.vector) for id, one in engine.index.get(ids()).items()}
    for least in (-1.0, 0.0, 0.2):
        kept = engine.search("image 3", hybrid=Fusion(), k=40, min_score=least)
        assert kept == [hit for hit in everything if cosines[hit.id] >= least]
        pages = [
            engine.search("image 3", hybrid=Fusion(), k=8, offset=8 * n, min_score=least)
            for n in range(6)
        ]
        assert [hit for page in pages for hit in page] == kept


def test_one_image_of_each_album_is_the_first_of_it(
    index: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    index.upsert(
        make_record(f"{n}", caption=f"image {n % 7}", album=f"a{n % 5}" if n < 30 else "")
        for n in range(40)
    )
    engine = SearchEngine(embedder, index)
    best: dict[str, Hit] = {}
    for hit in engine.search("image 3", hybrid=Fusion(), k=40):
        best.setdefault(hit.album or hit.id, hit)
    grouped = engine.search("image 3", hybrid=Fusion(), k=40, group_by="album")
    assert grouped == list(best.values())
    assert len(grouped) == 15
    asked = {"hybrid": Fusion(), "group_by": "album", "k": 4}
    pages = [engine.search("image 3", offset=4 * n, **asked) for n in range(4)]  # type: ignore[arg-type]
    assert [hit for page in pages for hit in page] == grouped


def ids() -> list[str]:
    return [f"{n}" for n in range(40)]
