import time
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from coca.search.milvus.collection import Collection
from coca.search.query.hybrid.bm25 import Captions
from coca.search.records import Origin, Record

CAPTIONS = ["a red car", "a red red car in snow", "two dogs", "", "the car"]


@pytest.fixture
def index(index: Collection, make_record: Callable[..., Record]) -> Collection:
    index.upsert(
        make_record(f"{n}", caption=caption, metadata={"n": n})
        for n, caption in enumerate(CAPTIONS)
    )
    return index


def test_captions_that_share_a_word_are_found_the_best_first(index: Collection) -> None:
    hits = Captions(index).full_text_search("red CAR")
    assert [hit.id for hit in hits] == ["0", "1", "4"]
    assert [hit.caption for hit in hits] == [CAPTIONS[int(hit.id)] for hit in hits]
    assert hits[0].score > hits[1].score > hits[2].score > 0
    assert Captions(index).full_text_search("zebra") == []


def test_pages_and_filters_cut_the_same_ranking(index: Collection) -> None:
    captions = Captions(index)
    everything = captions.full_text_search("red car dogs")
    assert captions.full_text_search("red car dogs", 2, offset=1) == everything[1:3]
    kept = captions.full_text_search("red car dogs", filter='metadata["n"] >= 1')
    assert kept == [hit for hit in everything if hit.metadata["n"] >= 1]


def test_what_was_written_meanwhile_is_found(
    index: Collection, make_record: Callable[..., Record]
) -> None:
    captions = Captions(index)
    index.upsert([make_record("0", caption="a zebra")])
    assert [hit.id for hit in captions.full_text_search("zebra")] == ["0"]
    index.delete(["0"])
    assert captions.full_text_search("zebra") == []
    whole = Captions(index).full_text_search("a red car dogs")
    assert captions.full_text_search("a red car dogs") == whole


def test_only_what_was_written_is_read_again(
    index: Collection, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = Captions(index)
    read: list[Any] = []
    origins = Collection.origins

    def counted(self: Collection, ids: Any = None) -> Any:
        read.append(ids)
        return origins(self, ids)

    monkeypatch.setattr(Collection, "origins", counted)
    index.upsert([make_record("9", caption="a zebra")])
    assert [hit.id for hit in captions.full_text_search("zebra")] == ["9"]
    assert read == [{"9"}]


def test_captions_of_a_model_are_left_out_where_given_captions_are_ranked(
    index: Collection, make_record: Callable[..., Record]
) -> None:
    captions = Captions(index, "given")
    written = Origin(captioned=True)
    index.upsert([make_record("9", caption="a red car", origin=written)])
    assert [hit.id for hit in captions.full_text_search("red car")] == ["0", "1", "4"]


def test_searches_go_on_while_what_others_may_have_replaced_is_read(
    index: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions, began, may_end = Captions(index), Event(), Event()
    origins = Collection.origins

    def slow(index: Collection) -> Any:
        began.set()
        assert may_end.wait(240)
        return origins(index)

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
    index: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions, asked = Captions(index), 0
    # On Lite, where all writers are known, it is not asked at all.
    monkeypatch.setattr(Collection, "sees_all_writes", False)

    def one_more(index: Collection, filter: str = "") -> int:
        nonlocal asked
        asked += 1
        return len(CAPTIONS) + 1

    monkeypatch.setattr(Collection, "count", one_more)
    assert [hit.id for hit in captions.full_text_search("dogs")] == ["2"]
    assert asked == 1
