"""Captions found by their words, where Milvus itself can rank them."""

from collections.abc import Callable

import pytest

from coca.core.errors import SearchError
from coca.search.milvus.collection import Index
from coca.search.records import Record

MakeRecord = Callable[..., Record]

CAPTIONS = {
    "one": "a red car on a road",
    "two": "a red red car in a red garage",
    "three": "a blue bicycle",
    "four": "",
    "five": "the road to the sea",
}


@pytest.fixture
def spoken(index: Index, make_record: MakeRecord) -> Index:
    if not index.has_words:
        with pytest.raises(SearchError, match="cannot rank captions by their words"):
            index.search_words("red car")
        pytest.skip(f"{index.capabilities.name} cannot rank by words, and says so")
    index.upsert(
        make_record(id, caption=caption, metadata={"n": n})
        for n, (id, caption) in enumerate(CAPTIONS.items())
    )
    return index


def test_captions_with_the_words_come_first(spoken: Index) -> None:
    for _ in range(2):
        hits = spoken.search_words("red car")
        assert [hit.id for hit in hits] == ["two", "one"]
        assert hits[0].score > hits[1].score > 0
        assert hits[0].caption == CAPTIONS["two"]
        spoken.flush()


def test_a_word_that_nobody_used_finds_nothing(spoken: Index) -> None:
    assert spoken.search_words("zebra") == []
    assert spoken.search_words("?!") == []


def test_words_are_paged_and_filtered(spoken: Index) -> None:
    assert [hit.id for hit in spoken.search_words("road", 1)] != []
    both = [hit.id for hit in spoken.search_words("road")]
    assert sorted(both) == ["five", "one"]
    assert [hit.id for hit in spoken.search_words("road", 1, offset=1)] == both[1:]
    kept = spoken.search_words("road", filter='metadata["n"] == 4')
    assert [hit.id for hit in kept] == ["five"]


def test_a_changed_caption_is_found_by_its_new_words(
    spoken: Index, make_record: MakeRecord
) -> None:
    spoken.upsert([make_record("one", caption="a green tractor")])
    assert [hit.id for hit in spoken.search_words("tractor")] == ["one"]
    assert [hit.id for hit in spoken.search_words("red car")] == ["two"]
    spoken.delete(["two"])
    assert spoken.search_words("red car") == []


def test_nothing_to_search_for_is_refused(spoken: Index) -> None:
    with pytest.raises(SearchError, match="is empty"):
        spoken.search_words(" ")
    with pytest.raises(SearchError, match="k is at least 1"):
        spoken.search_words("car", 0)
    with pytest.raises(SearchError, match="does not understand the filter"):
        spoken.search_words("car", filter="bogus == 3")
