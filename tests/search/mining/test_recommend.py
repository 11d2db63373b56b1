from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.mining.recommend import recommend
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import Term
from coca.search.records import Record, content_id
from coca.search.store import Collection


@pytest.fixture
def engine(
    embedder: Any, collection: Collection, make_record: Callable[..., Record]
) -> SearchEngine:
    collection.upsert(
        make_record(
            f"{n}",
            caption=f"c{n}",
            text_vector=embedder.direction(f"c{n}".encode()),
            metadata={"n": n},
        )
        for n in range(40)
    )
    return SearchEngine(embedder, collection)


def order_by_hand(embedder: Any, direction: Any, hidden: set[str]) -> list[str]:
    scores = {f"{n}": float(embedder.direction(f"{n}".encode()) @ direction) for n in range(40)}
    return [id for id in sorted(scores, key=lambda id: -scores[id]) if id not in hidden]


def test_likes_less_a_quarter_of_dislikes_is_the_direction(
    engine: SearchEngine, embedder: Any
) -> None:
    v = {name: embedder.direction(name.encode()) for name in ("3", "5", "9", "sea")}
    found = recommend(engine, ["3", "5"], negative=["9"], limit=37, diversity=0.0)
    by_hand = order_by_hand(embedder, (v["3"] + v["5"]) / 2 - 0.25 * v["9"], {"3", "5", "9"})
    assert [hit.id for hit in found] == by_hand
    # Across modalities: a text with three times the weight of an image of the collection.
    mixed = recommend(engine, ["3", Term(text="sea", weight=3.0)], limit=39, diversity=0.0)
    assert [hit.id for hit in mixed] == order_by_hand(
        embedder, v["3"] / 4 + 3 * v["sea"] / 4, {"3"}
    )


def test_what_was_seen_or_filtered_does_not_come_again(engine: SearchEngine) -> None:
    everything = recommend(engine, ["3"], limit=40, diversity=0.0)
    seen = {hit.id for hit in everything[:5]}
    assert recommend(engine, ["3"], limit=5, seen=seen, diversity=0.0) == everything[5:10]
    few = recommend(engine, ["3"], limit=40, filter='metadata["n"] < 9', seen=seen, diversity=0.0)
    assert [hit.id for hit in few] == [
        hit.id for hit in everything if hit.metadata["n"] < 9 and hit.id not in seen
    ]


def test_copies_of_what_was_liked_or_seen_are_left_out(
    engine: SearchEngine,
    embedder: Any,
    make_record: Callable[..., Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, of_bytes = tmp_path / "a.png", embedder.embed_images
    path.write_bytes(b"3")
    monkeypatch.setattr(embedder, "embed_images", lambda it: of_bytes([p.read_bytes() for p in it]))
    twins = [replace(make_record("3"), id=id, content=content_id(b"3")) for id in ("3", "twin")]
    engine.collection.upsert(twins)
    for example, seen in ((Term(image=path), ()), ("3", ()), ("5", {"twin"})):
        found = recommend(engine, [example], limit=40, diversity=0.0, seen=seen)
        assert {"3", "twin"}.isdisjoint(hit.id for hit in found)
    engine.collection.upsert([replace(make_record("own"), path=str(path))])
    found = recommend(engine, [Term(image=path)], limit=40, diversity=0.0)
    assert "own" not in {hit.id for hit in found}


def test_diversity_makes_results_differ(engine: SearchEngine, embedder: Any) -> None:
    def alike(hits: list[Any]) -> float:
        vectors = np.stack([embedder.direction(hit.id.encode()) for hit in hits])
        return float(np.triu(vectors @ vectors.T, 1).sum())

    plain, diverse = (recommend(engine, ["3"], limit=6, diversity=d) for d in (0.0, 0.7))
    for diversity, hits in ((0.0, plain), (0.7, diverse)):
        page = recommend(engine, ["3"], limit=2, offset=2, diversity=diversity)
        assert [hit.id for hit in page] == [hit.id for hit in hits[2:4]]
    assert diverse[0].id == plain[0].id
    ranks = [hit.rank_score for hit in diverse]
    assert ranks == sorted(ranks, key=lambda rank: -(rank or 0.0))
    assert alike(diverse) < alike(plain)
    assert len({hit.id for hit in diverse}) == 6


def test_captions_can_be_recommended_by(engine: SearchEngine, embedder: Any) -> None:
    vectors = {f"{n}": embedder.direction(f"c{n}".encode()) for n in range(40)}
    by_hand = sorted(set(vectors) - {"3"}, key=lambda id: -float(vectors[id] @ vectors["3"]))
    found = recommend(engine, ["3"], limit=5, on="text", diversity=0.0)
    assert [hit.id for hit in found] == by_hand[:5]


def test_what_is_removed_in_the_middle_of_it_is_left_out(
    engine: SearchEngine, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recommend(engine, ["3"], limit=3, diversity=0.5)
    search = collection.nearest

    def and_remove(*args: Any, **settings: Any) -> Any:
        answers = search(*args, **settings)
        collection.delete(hit.id for hit in answers[0] if hit.id in gone)
        return answers

    monkeypatch.setattr(collection, "nearest", and_remove)
    gone = {wanted[0].id}
    left = recommend(engine, ["3"], limit=3, diversity=0.5)
    assert len(left) == 3
    assert wanted[0].id not in {hit.id for hit in left}
    gone = {f"{n}" for n in range(40)}
    assert recommend(engine, [Term(text="x")], limit=3, diversity=0.5) == []


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"positive": []}, "positive is empty"),
        ({"positive": ["absent"]}, "no record 'absent'"),
        ({"positive": ["3"], "negative": ["absent"]}, "no record 'absent'"),
        ({"positive": ["3"], "diversity": 1.5}, r"diversity must be .* \[0, 1\], got 1\.5"),
        ({"positive": [Term(text="x", weight=-1.0)]}, "must be above 0, got -1"),
        (
            {"positive": ["3"], "seen": {f"s{n}" for n in range(16_384)}},
            "leave them out by a filter",
        ),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(
    engine: SearchEngine, asked: Any, sentence: str
) -> None:
    with pytest.raises(SearchError, match=sentence):
        recommend(engine, **asked)
