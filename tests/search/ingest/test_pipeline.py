import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import DataError, SearchError
from coca.search.ingest import upsert
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.pipeline import WriteBehind, add, ingest
from coca.search.ingest.sources import FileSource, SourceImage
from coca.search.milvus.collection import Collection
from coca.search.records import Record, content_id

Make = Callable[..., Record]


class Gate:
    """Collection whose writes block until released; lists the calls in order."""

    def __init__(self, collection: Collection, patch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.asked: list[tuple[str, list[str]]] = []
        upsert, delete, flush = collection.upsert, collection.delete, collection.flush

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

        patch.setattr(collection, "upsert", slow_upsert)
        patch.setattr(collection, "delete", slow_delete)
        patch.setattr(collection, "flush", slow_flush)

    def pass_through(self, what: str, ids: list[str]) -> None:
        self.open.wait(240)
        self.asked.append((what, ids))


@pytest.fixture
def gate(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(collection, monkeypatch)


def test_what_is_on_its_way_is_seen_at_once_and_written_in_order(
    collection: Collection, gate: Gate, make_record: Make
) -> None:
    with WriteBehind(collection) as behind:
        behind.upsert([make_record("a"), make_record("b")])
        behind.delete(["a"])
        assert behind.get(["a", "b", "c"]) == {"b": make_record("b")}
        assert not gate.asked
        gate.open.set()
        behind.flush()
    assert gate.asked == [("upsert", ["a", "b"]), ("delete", ["a"]), ("flush", [])]
    assert collection.get(["b"]) == {"b": make_record("b")}


def test_no_more_than_two_batches_wait(
    collection: Collection, gate: Gate, make_record: Make
) -> None:
    with WriteBehind(collection) as behind:
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
    collection: Collection, make_record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.upsert([make_record("old")])

    def refuse(records: object) -> int:
        raise SearchError("the disk is full")

    monkeypatch.setattr(collection, "upsert", refuse)
    behind = WriteBehind(collection)
    behind.upsert([make_record("new")])
    behind.delete(["old"])
    with pytest.raises(SearchError, match="the disk is full"):
        behind.flush()
    assert collection.get(["old"]).keys() == {"old"}


Run = Callable[..., IngestReport]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.jpg").write_bytes(name.encode())
    (folder / "a.txt").write_text("an apple")
    (folder / "b.json").write_text('{"caption": "a bear", "kind": "animal"}')
    return folder


@pytest.fixture
def run(folder: Path, embedder: Any, collection: Collection) -> Run:
    """Index the folder; `embedder.embedded` then lists the embedded images."""

    def run(**settings: Any) -> IngestReport:
        embedder.embedded.clear()
        return ingest([FileSource([folder])], embedder, collection, **settings)

    return run


def contents(collection: Collection) -> dict[str, str]:
    """Map path -> caption of every record; fail if two records have one path."""
    found: dict[str, str] = {}
    for _, path, caption, origin in collection.origins():
        assert path in origin.files
        name = os.path.basename(path)
        assert name not in found
        found[name] = caption
    return found


def test_a_folder_becomes_records_with_the_captions_next_to_its_images(
    run: Run, collection: Collection, folder: Path, embedder: Any
) -> None:
    report = run()
    assert report == IngestReport(added=3)
    assert contents(collection) == {"a.jpg": "an apple", "b.jpg": "a bear", "c.jpg": ""}
    bear = collection.get([content_id(b"b")])[content_id(b"b")]
    assert bear.path == str(folder / "b.jpg")
    assert bear.metadata == {"kind": "animal"}
    assert bear.vector == pytest.approx(embedder.direction(b"b"))
    assert collection._images.unflushed == 0 or not collection._connection.is_lite


def test_a_second_run_reads_and_embeds_nothing(
    run: Run, collection: Collection, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    monkeypatch.setattr(FileSource, "read", lambda _, entry: pytest.fail(f"{entry} was read"))
    assert run() == IngestReport(unchanged=3)
    assert not embedder.embedded


@pytest.mark.parametrize(
    ("file", "data", "report", "changed"),
    [
        ("a.jpg", b"another apple", IngestReport(updated=1, unchanged=2), {}),
        ("a.txt", b"a pear", IngestReport(updated=1, unchanged=2), {"a.jpg": "a pear"}),
        ("b.json", None, IngestReport(updated=1, unchanged=2), {"b.jpg": ""}),
        # Only the time of the last change is another one.
        ("c.jpg", b"c", IngestReport(unchanged=3), {}),
    ],
)
def test_only_changed_images_are_embedded_again(
    run: Run,
    collection: Collection,
    folder: Path,
    embedder: Any,
    file: str,
    data: bytes | None,
    report: IngestReport,
    changed: dict[str, str],
) -> None:
    run()
    if data is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(data)
        os.utime(folder / file, (1, 1))
    assert run() == report
    assert embedder.embedded == ([data] if data == b"another apple" else [])
    assert contents(collection) == {"a.jpg": "an apple", "b.jpg": "a bear", "c.jpg": ""} | changed
    assert run() == IngestReport(unchanged=3)
    assert collection.count() == 3


def test_vanished_images_stay_until_they_are_pruned(
    run: Run, collection: Collection, folder: Path
) -> None:
    run()
    (folder / "c.jpg").unlink()
    assert run() == IngestReport(unchanged=2)
    assert collection.count() == 3
    assert run(prune=True) == IngestReport(unchanged=2, removed=1)
    assert contents(collection).keys() == {"a.jpg", "b.jpg"}


def test_a_folder_may_be_named_in_any_way(
    run: Run, collection: Collection, folder: Path, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    for named in ("..", "../../pictures", "../sub/..", f"{folder}/sub/../"):
        assert ingest([FileSource([named])], embedder, collection, prune=True) == IngestReport(
            unchanged=3
        )
    (folder / "c.jpg").unlink()
    assert ingest([FileSource(["../sub/.."])], embedder, collection, prune=True).removed == 1


def test_pruning_keeps_records_of_other_folders(
    folder: Path, embedder: Any, collection: Collection, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "d.jpg").write_bytes(b"d")
    ingest([FileSource([folder, elsewhere])], embedder, collection)
    add([SourceImage(path="shard.tar/x", data=b"x")], embedder, collection)
    (elsewhere / "d.jpg").unlink()
    (folder / "a.jpg").unlink()
    assert ingest([FileSource([folder])], embedder, collection, prune=True).removed == 1
    assert contents(collection).keys() == {"b.jpg", "c.jpg", "d.jpg", "x"}


def test_one_image_at_two_paths_is_one_record(
    run: Run, collection: Collection, folder: Path, embedder: Any
) -> None:
    (folder / "z.jpg").write_bytes(b"a")
    (folder / "z.txt").write_text("a copy")
    assert run() == IngestReport(added=3, duplicates=1)
    assert contents(collection)["a.jpg"] == "an apple"
    assert run() == IngestReport(unchanged=4)
    # Its metadata is ignored, as its path is not primary.
    (folder / "z.txt").write_text("still a copy")
    assert run() == IngestReport(unchanged=4)
    # A later copy is merged into the existing record.
    (folder / "0.jpg").write_bytes(b"a")
    assert run() == IngestReport(unchanged=4, duplicates=1)
    assert contents(collection)["a.jpg"] == "an apple"
    assert not embedder.embedded


@pytest.mark.parametrize(
    ("data", "embedded", "report"),
    [
        (None, [], IngestReport(updated=1, unchanged=2)),
        (b"changed", [b"changed"], IngestReport(updated=2, unchanged=2)),
    ],
    ids=["gone", "changed"],
)
def test_when_the_leading_file_is_gone_or_changes_the_copy_leads(
    run: Run,
    collection: Collection,
    folder: Path,
    embedder: Any,
    data: bytes | None,
    embedded: list[bytes],
    report: IngestReport,
) -> None:
    (folder / "z.jpg").write_bytes(b"a")
    (folder / "z.txt").write_text("a copy")
    run()
    expected = {"z.jpg": "a copy", "b.jpg": "a bear", "c.jpg": ""}
    if data is None:
        (folder / "a.jpg").unlink()
    else:
        (folder / "a.jpg").write_bytes(data)
        expected["a.jpg"] = "an apple"
    assert run() == report
    assert embedder.embedded == embedded
    assert contents(collection) == expected
    assert run(prune=True) == IngestReport(unchanged=len(expected))


@pytest.fixture
def moved(run: Run, folder: Path) -> Path:
    """Folder with the images and sidecar files of `folder`, which was indexed and is gone."""
    run()
    return folder.rename(folder.with_name("moved"))


def paths(collection: Collection) -> dict[str, str]:
    """Map each path of a record to the record's primary path."""
    return {path: lead for _, lead, _, origin in collection.origins() for path in origin.files}


@pytest.mark.parametrize("prune", [False, True])
def test_a_moved_folder_keeps_its_records_under_the_new_paths(
    moved: Path, prune: bool, collection: Collection, embedder: Any
) -> None:
    before = contents(collection)
    embedder.embedded.clear()
    report = ingest([FileSource([moved])], embedder, collection, prune=prune)
    assert report == IngestReport(updated=3)
    assert not embedder.embedded
    assert contents(collection) == before
    assert paths(collection) == {str(moved / name): str(moved / name) for name in before}
    assert {record.album for part in collection.read_through() for record in part} == {str(moved)}
    assert ingest([FileSource([moved])], embedder, collection) == IngestReport(unchanged=3)


def test_changes_that_people_made_in_a_record_move_with_its_file(
    moved: Path, collection: Collection, embedder: Any
) -> None:
    """The service changes records, and not the sidecar files."""
    (before,) = collection.get([content_id(b"a")]).values()
    vector = embedder.direction(b"a fruit")
    fields = {"caption": "a fruit", "tags": ("new",), "album": "Fruit"}
    collection.upsert([replace(before, text_vector=vector, **fields)])  # type: ignore[arg-type]
    ingest([FileSource([moved])], embedder, collection)
    (after,) = collection.get([content_id(b"a")]).values()
    assert (after.path, after.caption, after.tags, after.album) == (
        str(moved / "a.jpg"),
        "a fruit",
        ("new",),
        "Fruit",
    )
    assert ingest([FileSource([moved])], embedder, collection) == IngestReport(unchanged=3)


def test_files_on_a_drive_with_another_mount_point_are_found_at_the_new_paths(
    moved: Path, folder: Path, collection: Collection, embedder: Any
) -> None:
    # The old mount point is left, and empty: the drive may also be another one.
    folder.mkdir()
    names = contents(collection)
    assert ingest([FileSource([moved])], embedder, collection) == IngestReport(updated=3)
    assert paths(collection) == {
        str(place / name): str(moved / name) for place in (folder, moved) for name in names
    }
    assert ingest([FileSource([moved])], embedder, collection) == IngestReport(unchanged=3)
    folder.rmdir()
    moved.rename(folder)
    assert ingest([FileSource([folder])], embedder, collection) == IngestReport(updated=3)
    assert set(paths(collection)) == {str(folder / name) for name in names}


def test_a_file_with_other_metadata_is_a_copy_of_one_that_may_be_on_an_unmounted_drive(
    run: Run, folder: Path, collection: Collection, embedder: Any
) -> None:
    run()
    copies = folder.with_name("copies")
    copies.mkdir()
    (copies / "a.jpg").write_bytes(b"a")
    drive = folder.rename(folder.with_name("unplugged"))
    folder.mkdir()
    assert ingest([FileSource([copies])], embedder, collection) == IngestReport(duplicates=1)
    assert contents(collection)["a.jpg"] == "an apple"
    folder.rmdir()
    drive.rename(folder)
    assert run() == IngestReport(unchanged=3)


def test_files_that_only_another_machine_can_have_keep_their_paths(
    folder: Path, collection: Collection, embedder: Any
) -> None:
    path = "/of another machine/c.jpg"
    add([SourceImage(path=path, data=b"c", etag="1-1")], embedder, collection)
    report = ingest([FileSource([folder])], embedder, collection)
    assert paths(collection)[path] == path
    assert report.added == 2


def test_copies_beyond_the_limit_of_a_record_are_counted_but_not_stored(
    run: Run, collection: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsert, "_MAX_FILES_BYTES", 10)
    (folder / "z.jpg").write_bytes(b"a")
    for _ in range(2):
        assert run().duplicates == 1
    assert len(collection.get([content_id(b"a")])[content_id(b"a")].origin.files) == 1


def test_bad_images_are_reported_and_the_others_come_in(
    run: Run, collection: Collection, folder: Path, embedder: Any
) -> None:
    for name, image in {"bad1": b"bad1", "bad2": b"bad2", "copy": b"bad1", "e": b"e"}.items():
        (folder / f"{name}.png").write_bytes(image)
    report = run(batch_size=4)
    assert (report.added, report.duplicates) == (4, 0)
    assert {(os.path.basename(bad.path), bad.reason) for bad in report.bad} == {
        ("bad1.png", "not_an_image"),
        ("bad2.png", "not_an_image"),
        ("copy.png", "not_an_image"),
    }
    assert report.bad[0].detail == "this is not an image"
    assert sorted(embedder.embedded) == [b"a", b"b", b"c", b"e"]


def test_bad_sidecars_and_unreadable_files_are_reported(
    run: Run, collection: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.txt").unlink()
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text(json.dumps({"x": "y" * 70_000}))
    (folder / "c.jpg").unlink()
    (folder / "c.jpg").symlink_to(folder)
    (folder / "d.jpg").symlink_to(folder / "absent")
    report = run()
    assert [(os.path.basename(bad.path), bad.reason) for bad in report.bad] == [
        ("a.jpg", "bad_record"),
        ("b.jpg", "bad_words"),
        ("d.jpg", "unreadable"),
    ]
    assert "No such file" in report.bad[2].detail


def test_what_json_holds_and_milvus_does_not_is_one_images_fault(
    run: Run, collection: Collection, folder: Path
) -> None:
    deep = '{"x":' * 600 + "1" + "}" * 600
    run()
    (folder / "a.json").write_text(f'{{"n": {2**70}}}')
    (folder / "b.json").write_text(deep)
    (folder / "d.jpg").write_bytes(b"d")
    (folder / "d.json").write_text(deep)
    (folder / "e.jpg").write_bytes(b"e")
    (folder / "e.json").write_text(f'{{"n": {2**64 - 1}, "deep": {"[" * 99 + "]" * 99}}}')
    report = run()
    assert (report.added, report.unchanged) == (1, 1)
    assert [(os.path.basename(bad.path), bad.reason) for bad in report.bad] == [
        (name, "bad_words") for name in ("a.jpg", "b.jpg", "d.jpg")
    ]
    assert collection.get([content_id(b"e")])[content_id(b"e")].metadata["n"] == 2**64 - 1


def test_a_file_name_that_is_no_text_is_reported_as_text(run: Run, folder: Path) -> None:
    name = os.fsencode(folder) + b"/\xff.jpg"
    try:
        Path(os.fsdecode(name)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only names that are text")
    (bad,) = run().bad
    assert bad.reason == "bad_words"
    assert bad.path.endswith("\\udcff.jpg")
    assert "not valid Unicode" in bad.detail


def test_an_image_that_turned_bad_leaves_no_stale_record(
    run: Run, collection: Collection, folder: Path
) -> None:
    run()
    (folder / "a.jpg").write_bytes(b"bad now")
    report = run()
    assert len(report.bad) == 1
    assert contents(collection).keys() == {"b.jpg", "c.jpg"}


class Captioner:
    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def __call__(self, images: Sequence[bytes]) -> list[str]:
        self.seen.extend(images)
        return [f"written for {image.decode()}" for image in images]


def test_images_without_a_caption_get_one_written(
    run: Run, collection: Collection, folder: Path, embedder: Any
) -> None:
    # First without, then with: missing captions are generated.
    run()
    captioner = Captioner()
    assert run(captioner=captioner) == IngestReport(updated=1, unchanged=2)
    assert captioner.seen == [b"c"]
    assert contents(collection)["c.jpg"] == "written for c"
    for settings in ({"captioner": captioner}, {}):
        assert run(**settings) == IngestReport(unchanged=3)
    # New metadata keeps it, a given caption replaces it, and without one it is generated again.
    (folder / "c.json").write_text('{"kind": "letter"}')
    assert run(captioner=captioner).updated == 1
    assert contents(collection)["c.jpg"] == "written for c"
    (folder / "c.txt").write_text("given")
    assert run(captioner=captioner).updated == 1
    assert contents(collection)["c.jpg"] == "given"
    (folder / "c.txt").unlink()
    assert run().updated == 1
    assert contents(collection)["c.jpg"] == ""
    assert captioner.seen == [b"c"]
    assert not embedder.embedded


def test_an_image_with_an_empty_generated_caption_is_not_captioned_again(
    run: Run, collection: Collection, folder: Path
) -> None:
    asked: list[bytes] = []

    def silent(images: Sequence[bytes]) -> list[str]:
        asked.extend(images)
        return [""] * len(images)

    assert run(captioner=silent) == IngestReport(added=3)
    for settings in ({"captioner": silent}, {}):
        assert run(**settings) == IngestReport(unchanged=3)
    # New bytes need a new caption, new metadata does not.
    (folder / "c.json").write_text('{"kind": "letter"}')
    (folder / "d.jpg").write_bytes(b"d")
    assert run(captioner=silent) == IngestReport(added=1, updated=1, unchanged=2)
    assert (asked, contents(collection)["c.jpg"]) == ([b"c", b"d"], "")


def test_progress_counts_every_image(run: Run, folder: Path) -> None:
    (folder / "d.jpg").write_bytes(b"bad")
    (folder / "e.jpg").write_bytes(b"e")
    (folder / "e.json").write_text("{")
    seen: list[tuple[str, int | None]] = []
    steps: list[int] = []

    class Steps:
        def advance(self, count: int = 1, **figures: int | float | str) -> None:
            steps.append(count)

    @contextmanager
    def progress(title: str, total: int | None) -> Iterator[Steps]:
        seen.append((title, total))
        yield Steps()

    run(progress=progress)
    run(progress=progress, batch_size=1)
    assert seen == [("index images", 5)] * 2
    assert sum(steps) == 10


def test_another_models_collection_is_not_filled(run: Run, embedder: Any) -> None:
    embedder.fingerprint = "model-two"
    with pytest.raises(SearchError, match="and not by model-two"):
        run()


def test_a_folder_that_is_not_there_changes_nothing(
    run: Run, collection: Collection, embedder: Any, folder: Path
) -> None:
    run()
    folder.rename(folder.with_name("unplugged"))
    with pytest.raises(DataError, match="does not exist"):
        run(prune=True)
    assert collection.count() == 3
