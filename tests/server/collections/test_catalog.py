"""The catalog against the records of a real collection."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from coca.search.records import Record
from coca.search.store import Changes, Collection
from coca.search.stores import open_collection
from coca.server.collections.catalog import Catalog, CatalogEntry, count_days

SOME = 'array_contains(tags, "t1")'


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with open_collection(
        str(tmp_path / "a.db"), embed_dim=4, fingerprint="0" * 24, create=True
    ) as opened:
        opened.upsert([record(number) for number in range(23)])
        yield opened


def record(number: int, **changes: object) -> Record:
    fields: dict[str, Any] = {
        "caption": f"caption {number}",
        "time": 0 if number % 5 == 0 else 1_000_000 - number // 2,
        "tags": (f"t{number % 3}", "all"),
        "metadata": {"year": number // 4, "labels": ["a", "b", "a"], "long": "x" * 1_000},
        **changes,
    }
    vector = np.eye(4, dtype=np.float32)[0]
    fields.setdefault("content", f"content-{number}")
    return Record(id=f"{number:02}", path=f"{number}.png", vector=vector, **fields)


def ordered(collection: Collection, filter: str = "") -> list[str]:
    found = collection.get(collection.ids(filter)).values()
    return [one.id for one in sorted(found, key=lambda one: (-one.time, one.id))]


def test_entries_and_pages_are_the_records_in_order_after_each_write(
    collection: Collection,
) -> None:
    catalog = Catalog(collection)
    for write in (
        lambda: None,
        lambda: collection.delete(["03", "05"]),
        lambda: collection.upsert([record(40), record(41, time=2_000_000)]),
        lambda: collection.upsert([record(7, time=3_000_000, tags=("t1",)), record(8, time=0)]),
    ):
        write()
        for filter in ("", SOME):
            expected = ordered(collection, filter)
            assert [entry.id for entry in catalog.entries(filter)] == expected
            entries = catalog.entries(filter)
            pages = [catalog.hits(entries[at : at + 4]) for at in range(0, 30, 4)]
            assert [hit.id for hits in pages for hit in hits] == expected


def test_hidden_items_are_listed_apart(collection: Collection) -> None:
    catalog = Catalog(collection)
    before = [entry.id for entry in catalog.entries()]
    collection.upsert([record(4, hidden=True), record(6, hidden=True)])
    assert [entry.id for entry in catalog.entries()] == [
        id for id in before if id not in ("04", "06")
    ]
    assert [entry.id for entry in catalog.entries(hidden=True)] == ["04", "06"]
    assert [entry.id for entry in catalog.entries('id == "06"', hidden=True)] == ["06"]
    collection.upsert([record(4), record(6)])
    assert [entry.id for entry in catalog.entries()] == before
    assert catalog.entries(hidden=True) == []


def test_days_are_counted_in_the_order_of_the_list() -> None:
    times = [datetime(2021, 6, 30, 23, 59, tzinfo=UTC), datetime(2021, 6, 1, tzinfo=UTC)]
    times += [datetime(2021, 5, 31, tzinfo=UTC), datetime(1969, 12, 31, 1, tzinfo=UTC)]
    seconds = [*(int(one.timestamp()) for one in times), 0, 0]
    entries = [CatalogEntry(str(number), time, ()) for number, time in enumerate(seconds)]
    assert count_days(entries) == [
        *(("2021-06-30", 1), ("2021-06-01", 1), ("2021-05-31", 1)),
        *(("1969-12-31", 1), ("", 2)),
    ]
    assert count_days([]) == []


def test_images_that_are_gone_are_reported_once(tmp_path: Path, collection: Collection) -> None:
    reported: list[set[tuple[str, str]]] = []
    catalog = Catalog(collection, lambda images: reported.append(set(images)))
    catalog.read()
    # As another process does.
    with open_collection(str(tmp_path / "a.db")) as other:
        other.delete(["03", "05"])
        other.upsert([record(7, content="another image"), record(8, tags=("t1",))])
    assert catalog.read() == catalog.read() == 21
    assert reported == [{("03", "content-3"), ("05", "content-5"), ("07", "content-7")}]


class Server:
    """A collection of a server: what other clients write is known by a full read only."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.info = replace(collection.info, uri="http://localhost:19530")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collection, name)

    def changes(self, since: int = -1) -> Changes:
        return Changes(0, None if since < 0 else ())


def test_a_server_is_read_again_once_in_a_while(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(cast(Collection, Server(collection)))
    assert catalog.read() == 23
    collection.delete(["03"])
    assert catalog.read() == 23
    later_s = time.monotonic() + 1_000
    monkeypatch.setattr("coca.server.collections.catalog.time.monotonic", lambda: later_s)
    assert catalog.read() == 22


def test_an_entry_has_each_value_once_and_no_long_text(collection: Collection) -> None:
    found = {entry.id: entry for entry in Catalog(collection).entries()}
    entry = found["06"]
    assert entry.time == 999_997
    assert sorted(entry.values) == [
        ("caption_source", "given"),
        ("metadata.labels", "a"),
        ("metadata.labels", "b"),
        ("metadata.year", 1),
        ("tags", "all"),
        ("tags", "t0"),
    ]


def test_an_item_is_missing_when_the_last_reading_lacked_it(collection: Collection) -> None:
    catalog = Catalog(collection)
    assert not catalog.lacks("no-such-item", "")
    catalog.entries()
    assert catalog.lacks("no-such-item", "")
    assert not catalog.lacks("02", "content-2")
    collection.upsert([record(2, content="other")])
    catalog.entries()
    assert catalog.lacks("02", "content-2")
    collection.delete(["02"])
    catalog.entries()
    assert catalog.lacks("02", "other")
