"""Laws of explanations, in a SQLite file and in Milvus Lite."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coca.search.filter_language import conditions_of
from coca.search.query.engine import SearchEngine
from coca.search.query.explanation import sort_score
from coca.search.query.query_terms import Term, typed_terms
from coca.search.records import Origin, Record
from coca.search.search_options import Ranking
from coca.search.store import Collection

WORDS = ["red", "car", "dog", "cat", "grass", "house", "tree"]
COUNT = 40


@pytest.fixture(params=["sqlite", "lite"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "pictures.db")
    pytest.importorskip("milvus_lite")
    return f"milvus-lite:{tmp_path / 'lite.db'}"


@pytest.fixture
def engine(
    embedder: Any, collection: Collection, make_record: Callable[..., Record]
) -> SearchEngine:
    """Records with given, generated and no captions; every fifth is a copy, every tenth hidden."""

    def record(n: int) -> Record:
        caption = f"a {WORDS[n % 7]} and a {WORDS[n % 5]}" if n % 3 else ""
        vector = embedder.direction(caption.encode()) if caption else None
        image = embedder.direction(str(n - n % 5 // 4).encode())
        return make_record(
            f"r{n}",
            caption=caption,
            text_vector=vector,
            vector=image,
            content=f"c{n - n % 5 // 4}",
            tags=(WORDS[n % 3],),
            hidden=n % 10 == 7,
            metadata={"n": n},
            origin=Origin(captioned=n % 4 == 1),
        )

    collection.upsert(map(record, range(COUNT)))
    collection.flush()
    return SearchEngine(embedder, collection)


def some_query(drawn: random.Random) -> tuple[list[Term], dict[str, Any]]:
    terms = [
        Term(text=" ".join(drawn.sample(WORDS, 2)), weight=drawn.choice([1.0, 2.0, 0.5])),
        *(Term(text=word, weight=-0.5) for word in drawn.sample(WORDS, drawn.randrange(3))),
    ]
    ranking = Ranking(image_weight=drawn.random(), words_weight=2.0)
    kinds: list[dict[str, Any]] = [{}, {"hybrid": True}, {"hybrid": False}, {"on": "text"}]
    options = drawn.choice([*kinds, {"min_score": 0.1}, {"ranking": ranking}])
    group_by = drawn.choice(["image", "path"])
    return terms, {**options, "group_by": group_by, "limit": drawn.choice([3, COUNT])}


def test_parts_add_up_to_the_score_and_the_rank_is_the_place_in_the_ranking(
    engine: SearchEngine,
) -> None:
    drawn = random.Random(5)
    for _ in range(60):
        terms, options = some_query(drawn)
        filter = drawn.choice(["", 'metadata["n"] < 30'])
        hits = engine.search(terms=terms, **options | {"limit": COUNT}, filter=filter)
        places = {hit.id: (rank, hit) for rank, hit in enumerate(hits, start=1)}
        for id in (drawn.choice(hits).id if hits else "r0", f"r{drawn.randrange(COUNT)}"):
            why = engine.explain(id, terms, filter=filter, **options)
            if why.score is not None:
                assert sum(part.value for part in why.parts) == pytest.approx(why.score, abs=2e-5)
            if id in places:
                rank, hit = places[id]
                assert why.rank == rank
                assert why.score == pytest.approx(sort_score(hit), abs=1e-6)
                assert (rank > options["limit"]) == any("hit 3 has" in one for one in why.against)
            else:
                assert why.against


def test_what_excludes_a_record_is_named(engine: SearchEngine) -> None:
    late = 'caption like "x and (y"'
    filter = f'metadata["n"] < 3 and {late} and (width == 0 or width > 5)'
    assert conditions_of(filter) == ['metadata["n"] < 3', late, "(width == 0 or width > 5)"]
    assert conditions_of("width > 1 or height > 1 and width < 9") == [
        "width > 1 or height > 1 and width < 9"
    ]
    why = engine.explain("r6", "red", filter=filter)
    assert why.rank is None
    assert why.against[:2] == (
        'the filter metadata["n"] < 3 excludes it',
        f"the filter {late} excludes it",
    )
    assert engine.explain("r7", "red").against[0] == "it is hidden"
    assert engine.explain("r6", "red", on="text").against[0] == "it has no caption to compare with"
    assert "below the minimum of 1" in engine.explain("r6", "red", min_score=1.0).against[0]
    copy, shown = engine.explain("r4", "red"), engine.explain("r3", "red")
    assert copy.rank == shown.rank
    assert {
        "r3.jpg is the hit of its image or album",
        "r4.jpg is the hit of its image or album",
    } & {
        *copy.against,
        *shown.against,
    }


def test_an_unwanted_word_is_a_part_of_its_own(engine: SearchEngine, embedder: Any) -> None:
    grass = embedder.direction(b"grass")
    record = max(
        engine.collection.get(f"r{n}" for n in range(30)).values(),
        key=lambda it: float(it.vector @ grass),
    )
    why = engine.explain(record.id, "dog without grass", hybrid=False)
    terms = typed_terms("dog without grass")
    taken = {part.term: part.value for part in why.parts}
    assert list(taken) == [term.text for term in terms]
    assert taken["grass"] < 0
    assert f"'grass' with weight -0.5 takes {-taken['grass']:.3f}" in why.against
    assert set(why.missing) == {"labels", "words", "map"}
