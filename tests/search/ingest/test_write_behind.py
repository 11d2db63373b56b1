import threading
from collections.abc import Callable, Iterable

import pytest

from coca.core.errors import SearchError
from coca.search.ingest.write_behind import WriteBehind
from coca.search.milvus.collection import Collection
from coca.search.records import Record

Make = Callable[..., Record]


class Gate:
    """Collection whose writes block until released; lists the calls in order."""

    def __init__(self, index: Collection, patch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.asked: list[tuple[str, list[str]]] = []
        upsert, delete, flush = index.upsert, index.delete, index.flush

        def slow_upsert(records: Iterable[Record]) -> int:
            batch = list(records)
            self.pass_through("upsert", [record.id for record in batch])
            return upsert(batch)

        def slow_delete(ids: Iterable[str]) -> None:
            batch = list(ids)
            self.pass_through("delete", batch)
            delete(batch)

        def slow_flush() -> None:
            self.pass_through("flush", [])
            flush()

        patch.setattr(index, "upsert", slow_upsert)
        patch.setattr(index, "delete", slow_delete)
        patch.setattr(index, "flush", slow_flush)

    def pass_through(self, what: str, ids: list[str]) -> None:
        self.open.wait(240)
        self.asked.append((what, ids))


@pytest.fixture
def gate(index: Collection, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(index, monkeypatch)


def test_what_is_on_its_way_is_seen_at_once_and_written_in_order(
    index: Collection, gate: Gate, make_record: Make
) -> None:
    with WriteBehind(index) as behind:
        behind.upsert([make_record("a"), make_record("b")])
        behind.delete(["a"])
        assert behind.get(["a", "b", "c"]) == {"b": make_record("b")}
        assert not gate.asked
        gate.open.set()
        behind.flush()
    assert gate.asked == [("upsert", ["a", "b"]), ("delete", ["a"]), ("flush", [])]
    assert index.get(["b"]) == {"b": make_record("b")}


def test_no_more_than_two_batches_wait(index: Collection, gate: Gate, make_record: Make) -> None:
    with WriteBehind(index) as behind:
        behind.upsert([make_record("a")])
        behind.upsert([make_record("b")])
        third = threading.Thread(target=lambda: behind.upsert([make_record("c")]))
        third.start()
        third.join(0.2)
        assert third.is_alive()
        gate.open.set()
        third.join(10)
        assert not third.is_alive()


def test_after_a_write_that_failed_none_is_done(
    index: Collection, make_record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.upsert([make_record("old")])

    def refuse(records: object) -> int:
        raise SearchError("the disk is full")

    monkeypatch.setattr(index, "upsert", refuse)
    behind = WriteBehind(index)
    behind.upsert([make_record("new")])
    behind.delete(["old"])
    with pytest.raises(SearchError, match="the disk is full"):
        behind.flush()
    assert index.get(["old"]).keys() == {"old"}
