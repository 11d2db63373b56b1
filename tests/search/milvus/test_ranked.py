"""A ranking of few candidates is that of all records, in plain Python."""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import search_oracle as oracle
from coca.search.milvus.collection import MilvusCollection
from coca.search.milvus.schema import CollectionSettings
from coca.search.milvus.store import MilvusStore
from coca.search.milvus.vector_index import VectorIndex
from coca.search.ranking import TypedQuery
from coca.search.records import Origin, Record
from coca.search.search_options import Ranking, SearchOptions
from store_writer import DIM, direction

ROWS = 400
NOUNS = ("car", "boat", "dog", "lake", "house", "tree", "Anna", "Häuser")
FILTERS: dict[str, Callable[[Record], bool]] = {
    "": lambda record: True,
    "time < 150": lambda record: record.time < 150,
    'array_contains(tags, "dog")': lambda record: "dog" in record.tags,
    'id == "absent"': lambda record: False,
}


def draw(chance: random.Random, number: int) -> Record:
    caption = " ".join(chance.choices(NOUNS, k=3)) if chance.random() < 0.7 else ""
    content = f"{chance.randrange(ROWS):032x}" if chance.random() < 0.6 else ""
    return Record(
        id=f"{number:05}",
        path=f"/photos/IMG_{number}.jpg",
        content=content,
        caption=caption,
        time=number,
        tags=tuple(chance.sample(NOUNS, chance.randrange(3))),
        album=f"/albums/{number % 40}" if chance.random() < 0.5 else "",
        hidden=chance.random() < 0.1,
        metadata={"ocr_text": " ".join(chance.choices(NOUNS, k=3))} if number % 9 == 0 else {},
        vector=direction(content or f"{number}"),
        text_vector=direction(caption) if caption and chance.random() < 0.9 else None,
        origin=Origin(captioned=chance.random() < 0.3),
    )


@pytest.fixture(scope="module")
def records() -> list[Record]:
    chance = random.Random(1)
    return [draw(chance, number) for number in range(ROWS)]


@pytest.fixture(scope="module")
def filled(
    records: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MilvusCollection]:
    uri = f"milvus-lite:{tmp_path_factory.mktemp('ranked')}/pictures.db"
    with MilvusStore(uri) as store:
        collection = store.create("pictures", embed_dim=DIM, fingerprint="one")
        collection.upsert(records)
        yield collection


@pytest.mark.parametrize("round", range(25))
def test_candidates_of_lists_are_enough(
    filled: MilvusCollection,
    records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    round: int,
) -> None:
    monkeypatch.setattr("coca.search.milvus.ranked.DEPTHS", (6, 24, 96, 16_384))
    monkeypatch.setattr("coca.search.milvus.ranked._LISTED", 12)
    chance = random.Random(round)
    weights: dict[str, Any] = {
        f"{part}_weight": chance.choice([0.0, 0.4, 1.0, 3.0])
        for part in ("image", "caption", "words", "text")
    }
    ranking = Ranking(
        **weights,
        captions=chance.choice(["all", "given"]),
    )
    filter, keeps = chance.choice(list(FILTERS.items()))
    asked = SearchOptions(
        limit=chance.choice([1, 10, 60]),
        offset=chance.choice([0, 7]),
        filter=filter,
        min_score=chance.choice([None, None, 0.2]),
        group_by=chance.choice(["image", "album", "path"]),
    )
    # The match of labels and texts is not a list of its own, and one bound of it is assumed.
    words = oracle.Words(records)
    text = " ".join(chance.sample([*NOUNS, "zebra", "the"], 2))
    hits = filled.ranked(TypedQuery(direction(text), text, oracle.SPREADS), ranking, asked)
    bm25 = words.bm25(text, ranking)
    expected = oracle.rank(
        records,
        direction(text),
        asked,
        keeps=keeps,
        ranking=ranking,
        bm25=bm25,
        matches=lambda id: words.matches(id, text),
    )
    oracle.check(hits, expected, asked)
    for hit in hits:
        assert (hit.bm25 or 0.0) == pytest.approx(bm25.get(hit.id, 0.0), abs=1e-4)


def test_words_have_the_bm25_of_lucene(filled: MilvusCollection, records: list[Record]) -> None:
    words = oracle.Words(records)
    shown = {record.id for record in records if not record.hidden}
    for text in ("car", "Haus am See", "anna's dogs"):
        scores = words.bm25(text, Ranking())
        expected = {id: score for id, score in scores.items() if id in shown}
        hits = filled.words(text, ROWS)
        assert dict(hits) == pytest.approx(expected, abs=1e-4)
        assert filled.words(text, 5) == hits[:5]
        early = [id for id, _ in hits if int(id) < 150]
        assert [id for id, _ in filled.words(text, ROWS, "time < 150")] == early


def test_a_search_of_a_rounding_index_has_the_cosines_of_the_stored_vectors(
    tmp_path: Path, records: list[Record]
) -> None:
    settings = CollectionSettings(index=VectorIndex("HNSW_SQ"))
    with MilvusStore(f"milvus-lite:{tmp_path}/rounded.db") as store:
        rounded = store.create("rounded", embed_dim=DIM, fingerprint="one", settings=settings)
        rounded.upsert(records)
        _check_cosines(rounded, records)


def _check_cosines(rounded: MilvusCollection, records: list[Record]) -> None:
    query = direction("a query")
    whole = rounded.nearest(query[np.newaxis], SearchOptions(limit=31, group_by="path"))[0]
    stored = {record.id: float(record.vector @ query) for record in records}
    assert [hit.score for hit in whole] == pytest.approx([stored[hit.id] for hit in whole])
    assert not math.isclose(whole[0].score, whole[-1].score)
    for k in range(1, 31, 3):
        options = SearchOptions(limit=k, group_by="path")
        assert rounded.nearest(query[np.newaxis], options)[0] == whole[:k]
