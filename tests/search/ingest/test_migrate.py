"""Migration between a folder and a server, resumed after any interruption."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import ArgumentError, SearchError
from coca.search.ingest import migrate as module
from coca.search.ingest.migrate import migrate
from coca.search.milvus.collection import Collection
from coca.search.records import Origin, Record

MakeRecord = Callable[..., Record]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Collection]:
    about: Any = {"embed_dim": 16, "fingerprint": "model-one", "create": True}
    with Collection.open(str(tmp_path / "source.db"), **about) as source:
        yield source


def given(make_record: MakeRecord, count: int = 25) -> dict[str, Record]:
    return {
        str(n): make_record(
            str(n),
            caption=f'c{n} "ä"',
            width=n,
            time=-n,
            tags=("a", str(n)),
            album=f"al{n % 3}",
            metadata={"n": n, "deep": [1.5, None]},
            text_vector=make_record(f"t{n}").vector if n % 2 else None,
            origin=Origin(files={f"/{n}.jpg": "1-2"}, label="x", captioned=bool(n % 3)),
        )
        for n in range(count)
    }


def same(first: Record, second: Record) -> bool:
    """Compare records in all fields, including vectors, which `==` ignores."""
    vectors = [
        (np.zeros(1) if one is None else one, np.zeros(1) if other is None else other)
        for one, other in ((first.vector, second.vector), (first.text_vector, second.text_vector))
    ]
    return first == second and all(np.array_equal(one, other) for one, other in vectors)


def test_a_collection_arrives_whole_and_goes_back(
    source: Collection, collection: Collection, tmp_path: Path, make_record: MakeRecord
) -> None:
    records = given(make_record)
    source.upsert(records.values())
    report = migrate(source, collection, tmp_path / "files")
    assert (report.records, report.written, report.folder) == (25, 25, None)
    assert not (tmp_path / "files").exists()
    source.delete(records)
    assert source.count() == 0
    migrate(collection, source, tmp_path / "back", keep_files=True)
    back = source.get(records)
    assert back.keys() == records.keys()
    assert all(same(records[id], record) for id, record in back.items())
    assert (tmp_path / "back" / "records-000000.parquet").exists()


def test_a_calibration_is_copied_unless_the_target_has_one(
    source: Collection, collection: Collection, tmp_path: Path, make_record: MakeRecord
) -> None:
    source.upsert(given(make_record).values())
    source.keep_calibration('{"threshold": 0.5}')
    migrate(source, collection, tmp_path / "files")
    assert collection.info.calibration == source.info.calibration
    collection.keep_calibration('{"threshold": 0.75}')
    migrate(source, collection, tmp_path / "files")
    assert collection.info.calibration == '{"threshold": 0.75}'


def test_a_stopped_migration_goes_on(
    source: Collection,
    collection: Collection,
    tmp_path: Path,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PART_ROWS", 10)
    records = given(make_record)
    source.upsert(records.values())
    writes = iter([None, KeyboardInterrupt])
    upsert = collection.upsert

    def stopped(rows: list[Record]) -> int:
        if next(writes, None):
            raise KeyboardInterrupt
        return upsert(rows)

    with monkeypatch.context() as patch:
        patch.setattr(collection, "upsert", stopped)
        with pytest.raises(KeyboardInterrupt):
            migrate(source, collection, tmp_path / "files")
    assert collection.count() == 10
    # A record added meanwhile is copied as well.
    source.upsert([make_record("late")])
    report = migrate(source, collection, tmp_path / "files")
    assert (report.records, report.written) == (26, 16)
    assert collection.get(["late"]).keys() == {"late"}


def test_records_that_changed_since_a_copy_are_copied_again(
    source: Collection, collection: Collection, tmp_path: Path, make_record: MakeRecord
) -> None:
    records = given(make_record)
    source.upsert(records.values())
    assert migrate(source, collection, tmp_path / "files", keep_files=True).written == len(records)
    changed = next(iter(records))
    source.upsert([dataclasses.replace(records[changed], caption="other words", text_vector=None)])
    for written in (1, 0):
        report = migrate(source, collection, tmp_path / "files", keep_files=True)
        assert (report.records, report.written) == (len(records), written)
        assert collection.get([changed])[changed].caption == "other words"
    # An import from the files alone gives equal records.
    collection.delete([changed])
    with pytest.raises(SearchError, match="did not come into"):
        migrate(source, collection, tmp_path / "files", keep_files=True)
    (tmp_path / "files" / "written.txt").unlink()
    migrate(source, collection, tmp_path / "files", keep_files=True)
    assert collection.get([changed])[changed].caption == "other words"


@pytest.mark.parametrize("overwrite", [False, True])
def test_records_of_the_target_that_differ_are_kept_unless_they_are_to_be_overwritten(
    source: Collection,
    collection: Collection,
    tmp_path: Path,
    make_record: MakeRecord,
    overwrite: bool,
) -> None:
    records = given(make_record, 4)
    source.upsert(records.values())
    newer = dataclasses.replace(records["1"], caption="a newer caption")
    collection.upsert([newer, records["2"]])
    report = migrate(source, collection, tmp_path / "files", overwrite=overwrite)
    assert (report.records, report.written, report.kept) == ((4, 4, 0) if overwrite else (4, 3, 1))
    expected = records if overwrite else records | {"1": newer}
    assert collection.get(collection.ids()) == expected


def test_a_record_that_changed_in_the_target_after_it_was_copied_is_kept(
    source: Collection, collection: Collection, tmp_path: Path, make_record: MakeRecord
) -> None:
    records = given(make_record, 3)
    source.upsert(records.values())
    migrate(source, collection, tmp_path / "files", keep_files=True)
    edited = dataclasses.replace(records["0"], tags=("edited",))
    collection.upsert([edited])
    source.upsert([dataclasses.replace(records[id], caption="changed") for id in "01"])
    report = migrate(source, collection, tmp_path / "files", keep_files=True)
    assert (report.written, report.kept) == (1, 1)
    found = collection.get(collection.ids())
    assert found["0"] == edited
    assert found["1"].caption == "changed"


def test_records_that_are_written_to_the_source_meanwhile_are_copied_as_well(
    source: Collection,
    collection: Collection,
    tmp_path: Path,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = given(make_record, 3)
    source.upsert(records.values())
    changed = dataclasses.replace(records["1"], caption="changed meanwhile")
    upsert, late = collection.upsert, iter([[make_record("late"), changed]])

    def upsert_while_others_write(rows: list[Record]) -> int:
        source.upsert(next(late, []))
        return upsert(rows)

    monkeypatch.setattr(collection, "upsert", upsert_while_others_write)
    assert migrate(source, collection, tmp_path / "files").records == 4
    assert collection.get(collection.ids()) == source.get(source.ids())


def test_a_source_that_never_rests_is_reported(
    source: Collection,
    collection: Collection,
    tmp_path: Path,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source.upsert([make_record("a")])
    monkeypatch.setattr(
        collection, "upsert", lambda rows: source.upsert([make_record(f"more {source.writes}")])
    )
    with pytest.raises(SearchError, match="changes faster than it is copied: stop its writers"):
        migrate(source, collection, tmp_path / "files")


@pytest.mark.parametrize("field", ["vector", "text_vector", "metadata", "tags", "time"])
def test_a_change_in_any_field_is_copied_again(
    source: Collection, tmp_path: Path, make_record: MakeRecord, field: str
) -> None:
    record = make_record("a", text_vector=make_record("t").vector, metadata={"n": 1})
    other = make_record("other").vector
    values: dict[str, Any] = {"metadata": {"n": 2}, "tags": ("x",), "time": 7}
    source.upsert([record, make_record("b")])
    about: dict[str, Any] = {"embed_dim": 16, "fingerprint": "model-one", "create": True}
    with Collection.open(str(tmp_path / "target.db"), **about) as target:
        migrate(source, target, tmp_path / "run", keep_files=True)
        changed = dataclasses.replace(record, **{field: values.get(field, other)})
        source.upsert([changed])
        assert migrate(source, target, tmp_path / "run", keep_files=True).written == 1
        assert same(target.get(["a"])["a"], changed)


def test_a_collection_is_never_copied_onto_itself(
    source: Collection, tmp_path: Path, make_record: MakeRecord
) -> None:
    source.upsert([make_record("a")])
    (tmp_path / "link.db").symlink_to(tmp_path / "source.db")
    for uri in ("source.db", "./x/../source.db", "link.db"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with (
            Collection.open(f"{tmp_path}/{uri}", source.own_name) as target,
            pytest.raises(ArgumentError, match="are the same collection"),
        ):
            migrate(source, target, tmp_path / "run")


def test_another_migration_or_model_is_refused(
    source: Collection, collection: Collection, tmp_path: Path, make_record: MakeRecord
) -> None:
    source.upsert([make_record("a")])
    migrate(source, collection, tmp_path / "files", keep_files=True)
    with pytest.raises(SearchError, match="belongs to another migration"):
        migrate(collection, source, tmp_path / "files")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(SearchError, match="has other files"):
        migrate(source, collection, tmp_path / "full")
    source.delete(["a"])
    with pytest.raises(SearchError, match="lost 1 records since the migration began"):
        migrate(source, collection, tmp_path / "files")
    collection.info = dataclasses.replace(collection.info, fingerprint="model-two")
    with pytest.raises(SearchError, match="was filled by model model-two"):
        migrate(source, collection, tmp_path / "other")
