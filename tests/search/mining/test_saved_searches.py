from collections.abc import Callable
from typing import Any

import pytest

from coca.core.errors import ArgumentError
from coca.search.mining.saved_searches import SavedSearch, SavedSearches
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import Term
from coca.search.records import Record
from coca.search.store import Collection

MakeRecord = Callable[..., Record]


@pytest.fixture
def saved(embedder: Any, collection: Collection, make_record: MakeRecord) -> SavedSearches:
    collection.upsert(make_record(f"{n}", metadata={"n": n}) for n in range(80))
    return SavedSearches(SearchEngine(embedder, collection))


def test_a_marked_query_is_the_mean_of_what_is_right_less_a_quarter_of_what_is_not(
    saved: SavedSearches, embedder: Any
) -> None:
    v = {name: embedder.direction(name.encode()) for name in ("3", "5", "9", "dog", "sea")}
    negative = ("9", "deleted", Term(text="sea"))
    search = SavedSearch(text="dog", positive=("3", "5"), negative=negative, filter='id != "7"')
    hits = saved.save("dogs", search)
    query = (v["dog"] + v["3"] + v["5"]) / 3 - 0.25 * (v["9"] + v["sea"]) / 2
    scores = {f"{n}": float(embedder.direction(f"{n}".encode()) @ query) for n in range(80)}
    expected = sorted(scores.keys() - {"7", "9"}, key=lambda id: -scores[id])
    assert [hit.id for hit in hits] == expected[:50]


def test_new_matches_are_those_added_since_the_last_look(
    saved: SavedSearches, embedder: Any, make_record: MakeRecord
) -> None:
    collection, dog = saved.engine.collection, embedder.direction(b"dog")

    def new(name: str) -> int:
        return saved.count_new(saved.read()[name])

    before = saved.save("dogs", SavedSearch(text="dog"))
    saved.save("few", SavedSearch(text="dog", filter='metadata["n"] > 40'))
    # Those below move up, and are not new.
    collection.delete(hit.id for hit in before[:10] if hit.metadata["n"] < 40)
    assert (new("dogs"), new("few")) == (0, 0)
    collection.upsert(make_record(f"new{n}", vector=dog) for n in range(3))
    collection.upsert([make_record("other", vector=-dog, metadata={"n": 99})])
    # Of fewer than 50 hits each further one is new.
    assert (new("dogs"), new("few")) == (3, 1)
    after = saved.save("dogs", saved.read()["dogs"])
    assert {hit.id for hit in after[:3]} == {"new0", "new1", "new2"}
    assert new("dogs") == 0
    saved.delete("dogs")
    assert list(saved.read()) == ["few"]


def test_what_no_store_can_keep_is_refused(saved: SavedSearches) -> None:
    for name in ("", " x", "x ", "a/b", 'a"b', "a\nb", "x" * 65):
        with pytest.raises(ArgumentError, match="1 to 64 characters"):
            saved.save(name, SavedSearch(text="dog"))
    with pytest.raises(ArgumentError, match="add the image to the collection"):
        SavedSearch(positive=(Term(vector=[1.0]),))
