"""Migration between stores, resumed after any interruption."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import ArgumentError, SearchError
from coca.search.ingest import migrate as module
from coca.search.ingest.migrate import MigrateReport, migrate
from coca.search.records import Origin, Record
from coca.search.store import Collection
from coca.search.stores import open_collection
from store_changes import patch

MakeRecord = Callable[..., Record]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Collection]:
    about: Any = {"embed_dim": 16, "fingerprint": "model-one", "create": True}
    with open_collection(str(tmp_path / "target.db"), **about) as target:
        yield target


@pytest.fixture
def records(collection: Collection, make_record: MakeRecord) -> dict[str, Record]:
    """Records of the source."""
    made = {
        str(n): make_record(
            str(n),
            content=f"{n // 2:032x}",
            caption=f'c{n} "ä"' if n % 4 else "",
            width=n,
            time=-n,
            tags=("a", str(n)),
            album=f"al{n % 3}",
            hidden=n % 5 == 0,
            metadata={"n": n, "deep": [1.5, None]},
            text_vector=make_record(f"t{n}").vector if n % 4 and n % 2 else None,
            origin=Origin(etag="1-2", label="x", captioned=bool(n % 3), dated="file", read=3),
        )
        for n in range(25)
    }
    collection.upsert(made.values())
    return made


def same(first: dict[str, Record], second: dict[str, Record]) -> bool:
    """Compare records in all fields, including vectors, which `==` ignores."""

    def vectors(records: dict[str, Record]) -> list[bytes]:
        pairs = [(record.vector, record.text_vector) for _, record in sorted(records.items())]
        return [b"" if one is None else one.tobytes() for pair in pairs for one in pair] + [
            record.perceptual_hash for _, record in sorted(records.items())
        ]

    return first == second and vectors(first) == vectors(second)


def test_a_collection_arrives_whole_and_goes_back(
    collection: Collection, target: Collection, records: dict[str, Record]
) -> None:
    with open_collection(collection.info.uri) as source:
        assert migrate(source, target) == MigrateReport(25, 25, 0)
        assert same(target.get(target.ids()), records)
        source.delete(records)
        assert migrate(target, source) == MigrateReport(25, 25, 0)
        assert same(source.get(source.ids()), records)
        assert migrate(target, source) == MigrateReport(25, 0, 0)


def test_a_stopped_migration_goes_on(
    collection: Collection,
    target: Collection,
    records: dict[str, Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_WRITE_ROWS", 10)
    upsert, left = target.upsert, [1]

    def stopping(batch: Any) -> int:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return upsert(batch)

    with monkeypatch.context() as patch:
        patch.setattr(target, "upsert", stopping)
        with pytest.raises(KeyboardInterrupt):
            migrate(collection, target)
    assert target.count() == 10
    assert migrate(collection, target) == MigrateReport(25, 15, 0)
    assert same(target.get(target.ids()), records)


def test_records_of_the_target_that_differ_are_kept_unless_they_are_to_be_overwritten(
    collection: Collection, target: Collection, records: dict[str, Record], make_record: MakeRecord
) -> None:
    migrate(collection, target)
    patch(target, {"3": {"tags": ("newer",)}, "4": {"origin": Origin(etag="newer")}})
    target.upsert([make_record("another")])
    assert migrate(collection, target) == MigrateReport(25, 0, 2)
    assert target.get(["3"])["3"].tags == ("newer",)
    assert migrate(collection, target, overwrite=True) == MigrateReport(25, 2, 0)
    assert same(target.get(records), records)
    assert target.count() == 26


def test_records_that_are_written_to_the_source_meanwhile_are_copied_as_well(
    collection: Collection,
    target: Collection,
    records: dict[str, Record],
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upsert = target.upsert
    due = [lambda: collection.upsert([make_record("late")]), lambda: collection.delete(["1"])]
    due.append(lambda: patch(collection, {"2": {"tags": ("late",)}}))

    def busy(batch: Any) -> int:
        while due:
            due.pop()()
        return upsert(batch)

    monkeypatch.setattr(target, "upsert", busy)
    report = migrate(collection, target)
    assert (report.records, report.written) == (25, 27)
    assert same(target.get(collection.ids()), collection.get(collection.ids()))
    number = itertools.count()
    # One that never rests is reported.
    monkeypatch.setattr(
        target,
        "upsert",
        lambda batch: patch(collection, {"3": {"time": next(number)}}) and upsert(batch),
    )
    collection.upsert([make_record("another")])
    with pytest.raises(SearchError, match="changes faster than it is copied"):
        migrate(collection, target)


def test_a_collection_is_copied_neither_onto_itself_nor_to_another_model(
    collection: Collection, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match="source and target are the same collection"):
        migrate(collection, collection)
    about: Any = {"embed_dim": 16, "fingerprint": "model-two", "create": True}
    with (
        open_collection(str(tmp_path / "other.db"), **about) as other,
        pytest.raises(SearchError, match="was filled by model model-two"),
    ):
        migrate(collection, other)
