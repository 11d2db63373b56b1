import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ConfigError
from coca.search.milvus.collection import Collection
from coca.search.query import ranking as ranking_module
from coca.search.query.collection_copy import CollectionCopy
from coca.search.query.engine import SearchEngine
from coca.search.query.match import covered
from coca.search.query.milvus_search import MilvusSearch
from coca.search.query.query_terms import Term
from coca.search.query.ranking import fused_scores
from coca.search.records import Hit, Origin, Record
from coca.search.search_options import Ranking

COSINES = st.floats(-1, 1)
RECORD = st.tuples(
    COSINES, st.one_of(COSINES, st.just(math.nan)), st.floats(0, 40), st.floats(0, 1)
)


def score_by_hand(
    image: float, caption: float, bm25: float, share: float, ranking: Ranking
) -> float:
    score = ranking.image_weight * image + ranking.text_weight * share**4
    if math.isnan(caption):
        score += ranking.caption_weight * ranking.uncaptioned * image
    else:
        score += ranking.caption_weight * caption
    return score + ranking.words_weight * bm25 / (bm25 + ranking.words_half)


def fused(records: list[tuple[float, float, float, float]], ranking: Ranking) -> list[float]:
    parts = np.array(records, np.float64).reshape(-1, 4)
    return fused_scores(parts[:, 0], parts[:, 1], parts[:, 2:], ranking).tolist()


@given(st.lists(RECORD, max_size=9))
def test_the_score_is_a_sum_of_absolute_similarities(
    records: list[tuple[float, float, float, float]],
) -> None:
    for ranking in (
        Ranking(),
        Ranking(
            image_weight=1.0, caption_weight=2.0, words_weight=3.0, words_half=0.5, uncaptioned=0.0
        ),
    ):
        expected = [score_by_hand(*record, ranking) for record in records]
        assert fused(records, ranking) == pytest.approx(expected, abs=1e-9)


def test_weights_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"image_weight must be a number in \[0, 10\], got -1"):
        Ranking(image_weight=-1.0)
    with pytest.raises(ConfigError, match="words_half must be a number above 0, got 0"):
        Ranking(words_half=0.0)


@pytest.fixture
def captioned(
    collection: Collection, embedder: Any, make_record: Callable[..., Record]
) -> Collection:
    """Forty records: with captions that people gave, that the model wrote, and without any."""
    captions = {n: f"image {n % 7} of {n}" if n % 5 else "" for n in range(40)}
    collection.upsert(
        make_record(
            f"{n:02}",
            caption=caption,
            text_vector=embedder.direction(caption.encode()) if caption else None,
            origin=Origin(captioned=n % 3 == 0),
            album=f"album {n % 4}" if n < 30 else "",
            metadata={"n": n, "ocr_text": f"an image of a dog {n % 3}" if n % 4 == 1 else ""},
        )
        for n, caption in captions.items()
    )
    return collection


@pytest.fixture
def engines(captioned: Collection, embedder: Any) -> list[SearchEngine]:
    """The engine of the collection in Milvus, and of its copy in memory."""
    copy = CollectionCopy(captioned)
    return [SearchEngine(embedder, captioned), SearchEngine(embedder, copy)]


BY_WORDS = Ranking(image_weight=0.0, caption_weight=0.0, words_weight=1.0)
RANKINGS = (
    Ranking(),
    Ranking(captions="all"),
    Ranking(image_weight=1.0, caption_weight=0.0, words_weight=0.0),
    BY_WORDS,
    Ranking(
        image_weight=0.1, caption_weight=1.0, words_weight=2.0, words_half=0.1, uncaptioned=0.2
    ),
)


def expected_hits(engine: SearchEngine, text: str, ranking: Ranking) -> list[tuple[str, float]]:
    """Rank all records by hand, with BM25 of the words of captions that count."""
    query = engine.query([Term(text=text)])[0]
    records = engine.collection.get(engine.collection.ids())
    copy = CollectionCopy(engine.collection.in_milvus(), vectors=False)
    words = copy.words(text, ranking.captions)
    bm25 = words.best(40)
    scores = {}
    for id, record in records.items():
        counts = ranking.captions == "all" or record.caption_source == "given"
        captioned = counts and record.text_vector is not None
        caption = record.cosine(query, "text") if captioned else math.nan
        scores[id] = score_by_hand(
            record.cosine(query, "image"),
            caption,
            bm25.get(id, 0.0),
            float(words.of([id])[0, 1]),
            ranking,
        )
    return sorted(scores.items(), key=lambda pair: (-round(pair[1], 6), pair[0]))


@pytest.mark.parametrize("ranking", RANKINGS, ids=str)
def test_milvus_and_the_copy_rank_all_records_by_the_rule(
    engines: list[SearchEngine], ranking: Ranking
) -> None:
    for text in ("image 3", "17 of", "a zebra"):
        expected = expected_hits(engines[0], text, ranking)
        for engine in engines:
            hits = engine.search(text, ranking=ranking, k=40)
            assert [hit.id for hit in hits] == [id for id, _ in expected]
            assert [hit.fused_score for hit in hits] == pytest.approx(
                [score for _, score in expected], abs=1e-5
            )


@pytest.mark.parametrize("ranking", RANKINGS, ids=str)
def test_a_few_candidates_give_the_first_hits(
    engines: list[SearchEngine], ranking: Ranking, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = engines[1].search("image 3", ranking=ranking, k=40)
    monkeypatch.setattr(ranking_module, "DEPTHS", (16, 64))
    hits = engines[0].search("image 3", ranking=ranking, k=3)
    # No other record can have more than what the last candidates of the lists allow.
    assert {hit.id for hit in hits[:1]} <= {hit.id for hit in whole[:3]}
    scores = {hit.id: hit.fused_score for hit in whole}
    wanted = [scores[hit.id] for hit in hits]
    assert [hit.fused_score for hit in hits] == pytest.approx(wanted, abs=1e-6)


def test_a_hit_has_what_each_part_is(engines: list[SearchEngine], embedder: Any) -> None:
    query = embedder.direction(b"image 3")
    records = engines[0].collection.get(engines[0].collection.ids())
    for engine in engines:
        for hit in engine.search("image 3", k=40):
            record, given = records[hit.id], hit.caption_source == "given"
            assert hit.score == pytest.approx(record.cosine(query, "image"), abs=1e-5)
            assert (hit.caption_score is not None) == given
            if given:
                assert hit.caption_score == pytest.approx(record.cosine(query, "text"), abs=1e-5)
            assert (hit.bm25 is not None) == (given and bool(hit.caption))


@pytest.mark.parametrize(
    "asked",
    [
        {"k": 7},
        {"k": 7, "filter": 'metadata["n"] < 23'},
        {"k": 7, "min_score": 0.05},
        {"k": 4, "group_by": "album"},
        {"k": 4, "group_by": "album", "filter": "album != 'album 1'", "min_score": -0.2},
        {"k": 7, "hybrid": True},
        {"k": 7, "ranking": BY_WORDS},
        {"k": 7, "filter": 'id == ""'},
    ],
    ids=str,
)
def test_pages_are_parts_of_one_list(
    engines: list[SearchEngine], asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = []
    for depths in ((16, 64, 256), (64, 256)):
        monkeypatch.setattr(ranking_module, "DEPTHS", depths)
        for engine in engines:
            whole = engine.search("image 3 of", **asked | {"k": 40})
            pages = [engine.search("image 3 of", **asked, offset=asked["k"] * n) for n in range(6)]
            assert [hit for page in pages for hit in page] == whole[: 6 * asked["k"]]
            lists.append({hit.id for hit in whole})
    # Candidates of a depth decide the order between depths only.
    if not asked.get("group_by"):
        assert lists[0] == lists[1] == lists[2] == lists[3]
    assert lists[1] == lists[2] == lists[3]


def test_filter_and_minimum_score_hold_for_records_that_only_words_found(
    engines: list[SearchEngine], embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking_module, "DEPTHS", (4, 16, 64))
    query = embedder.direction(b"image 3")
    records = engines[0].collection.get(engines[0].collection.ids())
    for engine in engines:
        for least in (-1.0, 0.0, 0.2):
            hits = engine.search("image 3", k=40, min_score=least, filter='metadata["n"] > 4')
            assert {hit.id for hit in hits} == {
                id
                for id, record in records.items()
                if record.metadata["n"] > 4 and record.cosine(query, "image") >= least
            }


def test_one_image_of_each_album_is_the_first_of_it(engines: list[SearchEngine]) -> None:
    for engine in engines:
        best: dict[str, Hit] = {}
        for hit in engine.search("image 3", k=40):
            best.setdefault(hit.album or hit.id, hit)
        grouped = engine.search("image 3", k=40, group_by="album")
        assert grouped == list(best.values())
        assert len(grouped) == 14


def test_a_collection_without_captions_is_ranked_by_image(
    collection: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    collection.upsert(make_record(f"{n}", caption="") for n in range(9))
    for searched in (collection, CollectionCopy(collection)):
        engine = SearchEngine(embedder, searched)
        dense = engine.search("3", hybrid=False, k=9)
        assert engine.search("3", k=9) == dense
        assert engine.search("3", k=3, offset=4) == dense[4:7]


def test_the_default_ranks_texts_by_the_captions_that_people_gave(
    engines: list[SearchEngine],
) -> None:
    for engine in engines:
        default = engine.search("image 3", k=40)
        assert default == engine.search("image 3", ranking=Ranking(), k=40)
        dense = engine.search("image 3", hybrid=False, k=40)
        assert [hit.id for hit in default] != [hit.id for hit in dense]
        everything = engine.search("image 3", ranking=Ranking(captions="all"), k=40)
        assert engine.search("image 3", hybrid=True, k=40) == everything
        assert all(hit.fused_score is None for hit in dense)
        # A query with an image or a vector, or of another field, is not a typed one.
        for other in (Term(image=b"3"), Term(vector=np.eye(16)[0])):
            hits = engine.search(terms=[Term(text="a car"), other])
            assert all(hit.fused_score is None for hit in hits)
        assert all(hit.fused_score is None for hit in engine.search("a car", on="text"))
        terms = [Term(text="a car"), Term(text="night", weight=-0.3)]
        assert all(hit.fused_score is not None for hit in engine.search(terms=terms))


@pytest.mark.parametrize("caption", ["", "a red car"])
@pytest.mark.parametrize("search", [CollectionCopy, MilvusSearch])
def test_text_inside_an_image_is_ranked_by_its_words(
    collection: Collection,
    embedder: Any,
    make_record: Callable[..., Record],
    search: Callable[[Collection], Any],
    caption: str,
) -> None:
    page = make_record("p", metadata={"ocr_text": "INVOICE 2024-118\nTotal 12.50"})
    others = [make_record(f"{n}", metadata={"ocr_text": f"exit {n}"}) for n in range(30)]
    vector = embedder.direction(caption.encode()) if caption else None
    collection.upsert([page, make_record("c", caption=caption, text_vector=vector), *others])
    engine = SearchEngine(embedder, search(collection))
    words = Ranking(image_weight=0.0, caption_weight=0.0)
    (best, *_) = engine.search("the invoice of 2024", ranking=words)
    assert (best.id, best.caption_score, best.metadata) == ("p", None, page.metadata)
    assert best.parts is not None
    assert best.parts["text"] == pytest.approx(words.text_weight)
    assert covered("invoice 2025", page.metadata["ocr_text"]) == 0.5
    collection.upsert([replace(page, metadata={"ocr_text": "a letter"})])
    hits = engine.search("invoice", ranking=words)
    assert all("text" not in (hit.parts or {}) for hit in hits)
    assert engine.search("the letter", ranking=words)[0].id == "p"
