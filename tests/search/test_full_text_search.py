"""Full-text search over captions by Milvus itself."""

from collections.abc import Callable

import pytest

from coca.core.errors import SearchError
from coca.search.milvus.collection import Collection
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
def captioned(collection: Collection, make_record: MakeRecord) -> Collection:
    if not collection.supports_full_text:
        with pytest.raises(SearchError, match="cannot rank captions by their words"):
            collection.full_text_search("red car")
        pytest.skip(f"{collection.capabilities.name} has no full-text search, and reports it")
    collection.upsert(
        make_record(id, caption=caption, metadata={"n": n})
        for n, (id, caption) in enumerate(CAPTIONS.items())
    )
    return collection


def test_captions_with_the_words_come_first(captioned: Collection) -> None:
    for _ in range(2):
        hits = captioned.full_text_search("red car")
        assert [hit.id for hit in hits] == ["two", "one"]
        assert hits[0].score > hits[1].score > 0
        assert hits[0].caption == CAPTIONS["two"]
        captioned.flush()


def test_a_word_that_nobody_used_finds_nothing(captioned: Collection) -> None:
    assert captioned.full_text_search("zebra") == []
    assert captioned.full_text_search("?!") == []


def test_full_text_hits_are_paged_and_filtered(captioned: Collection) -> None:
    assert [hit.id for hit in captioned.full_text_search("road", 1)] != []
    both = [hit.id for hit in captioned.full_text_search("road")]
    assert sorted(both) == ["five", "one"]
    assert [hit.id for hit in captioned.full_text_search("road", 1, offset=1)] == both[1:]
    kept = captioned.full_text_search("road", filter='metadata["n"] == 4')
    assert [hit.id for hit in kept] == ["five"]


def test_a_changed_caption_is_found_by_its_new_words(
    captioned: Collection, make_record: MakeRecord
) -> None:
    captioned.upsert([make_record("one", caption="a green tractor")])
    assert [hit.id for hit in captioned.full_text_search("tractor")] == ["one"]
    assert [hit.id for hit in captioned.full_text_search("red car")] == ["two"]
    captioned.delete(["two"])
    assert captioned.full_text_search("red car") == []


def test_nothing_to_search_for_is_refused(captioned: Collection) -> None:
    with pytest.raises(SearchError, match="is empty"):
        captioned.full_text_search(" ")
    with pytest.raises(SearchError, match="k must be a whole number of at least 1, got 0"):
        captioned.full_text_search("car", 0)
    with pytest.raises(SearchError, match="does not understand the filter"):
        captioned.full_text_search("car", filter="bogus == 3")
