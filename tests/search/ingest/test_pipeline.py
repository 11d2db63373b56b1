"""Ingest of files: what is read, embedded, written and pruned."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import SearchError
from coca.core.progress import show_progress
from coca.search.ingest import known_records
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.sources import FileSource
from coca.search.records import FAVOURITE, Origin, Record, content_id, record_id
from coca.search.store import Collection
from store_changes import patch
from tiny_ingest import ingest

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


def records_of(collection: Collection) -> dict[str, Record]:
    """Map the name of each file to its record."""
    pages = collection.pages()
    return {os.path.basename(record.path): record for page in pages for record in page}


def captions_of(collection: Collection) -> dict[str, str]:
    return {name: record.caption for name, record in records_of(collection).items()}


def test_a_folder_becomes_records_with_the_captions_next_to_its_images(
    run: Run, collection: Collection, folder: Path, embedder: Any
) -> None:
    assert run() == IngestReport(added=3)
    assert captions_of(collection) == {"a.jpg": "an apple", "b.jpg": "a bear", "c.jpg": ""}
    path = str(folder / "b.jpg")
    bear = collection.get([record_id(path)])[record_id(path)]
    assert (bear.path, bear.content, bear.metadata) == (path, content_id(b"b"), {"kind": "animal"})
    assert bear.vector == pytest.approx(embedder.direction(b"b"))
    assert bear.text_vector == pytest.approx(embedder.direction(b"a bear"))


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
    assert (
        captions_of(collection) == {"a.jpg": "an apple", "b.jpg": "a bear", "c.jpg": ""} | changed
    )
    assert run() == IngestReport(unchanged=3)
    assert collection.count() == 3


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
    there = Record(id="x", path="shard.tar/x", vector=embedder.direction(b"x"))
    collection.upsert([there])
    (elsewhere / "d.jpg").unlink()
    (folder / "a.jpg").unlink()
    assert ingest([FileSource([folder])], embedder, collection, prune=True).removed == 1
    assert captions_of(collection).keys() == {"b.jpg", "c.jpg", "d.jpg", "x"}


def test_copies_are_records_of_their_own_that_share_what_the_model_made(
    run: Run, collection: Collection, folder: Path, embedder: Any
) -> None:
    (folder / "z.jpg").write_bytes(b"a")
    (folder / "z.txt").write_text("a copy")
    report = run()
    assert report == IngestReport(added=3, duplicates=1)
    assert [(copy.path, copy.of) for copy in report.copies] == [
        (str(folder / "z.jpg"), str(folder / "a.jpg"))
    ]
    assert embedder.embedded.count(b"a") == 1
    assert captions_of(collection)["z.jpg"] == "a copy"
    assert run() == IngestReport(unchanged=4)
    (folder / "0.jpg").write_bytes(b"c")
    (folder / "z.txt").write_text("still a copy")
    assert run() == IngestReport(updated=1, unchanged=3, duplicates=1)
    assert not embedder.embedded
    assert captions_of(collection)["a.jpg"] == "an apple"
    assert captions_of(collection)["z.jpg"] == "still a copy"
    one, other = (records_of(collection)[name] for name in ("0.jpg", "c.jpg"))
    assert (one.content, one.vector.tolist()) == (other.content, other.vector.tolist())


def test_a_copy_is_hidden_and_a_favourite_as_the_others(
    run: Run, collection: Collection, folder: Path
) -> None:
    run()
    ids = {name: record.id for name, record in records_of(collection).items()}
    patch(collection, {ids["a.jpg"]: {"hidden": True}, ids["b.jpg"]: {"tags": ("x", FAVOURITE)}})
    for name in "ab":
        (folder / f"{name}2.jpg").write_bytes(name.encode())
    run()
    found = records_of(collection)
    assert (found["a2.jpg"].hidden, found["a2.jpg"].tags) == (True, ())
    assert (found["b2.jpg"].hidden, found["b2.jpg"].tags) == (False, (FAVOURITE,))


@pytest.fixture
def moved(run: Run, folder: Path) -> Path:
    """Folder with the images and sidecar files of `folder`, which was indexed and is gone."""
    run()
    return folder.rename(folder.with_name("moved"))


@pytest.mark.parametrize("prune", [False, True])
def test_a_moved_folder_takes_its_records_along_and_what_people_changed_in_them(
    run: Run, moved: Path, prune: bool, collection: Collection, embedder: Any
) -> None:
    before = records_of(collection)["a.jpg"]
    changes = {"caption": "a fruit", "tags": ("new",), "album": "Fruit", "hidden": True}
    vector = embedder.direction(b"a fruit")
    patch(collection, {before.id: {**changes, "text_vector": vector}})
    embedder.embedded.clear()
    report = ingest([FileSource([moved])], embedder, collection, prune=prune)
    assert report == IngestReport(updated=3)
    assert not embedder.embedded
    after = records_of(collection)
    assert {record.path for record in after.values()} == {str(moved / name) for name in after}
    assert {name: getattr(after["a.jpg"], name) for name in changes} == changes
    assert after["a.jpg"].text_vector == pytest.approx(vector)
    assert after["b.jpg"].album == str(moved)
    assert ingest([FileSource([moved])], embedder, collection) == IngestReport(unchanged=3)


def test_files_that_may_be_on_an_unmounted_drive_keep_their_records(
    moved: Path, folder: Path, collection: Collection, embedder: Any
) -> None:
    folder.mkdir()
    report = ingest([FileSource([moved])], embedder, collection)
    assert report == IngestReport(updated=3)
    pages = collection.pages(vectors=False)
    paths = {record.path for page in pages for record in page}
    assert paths == {str(place / f"{name}.jpg") for place in (folder, moved) for name in "abc"}


def test_files_that_only_another_machine_can_have_keep_their_records(
    folder: Path, collection: Collection, embedder: Any
) -> None:
    path = "/of another machine/c.jpg"
    own = {"content": content_id(b"c"), "vector": embedder.direction(b"c")}
    collection.upsert([Record(id=record_id(path), path=path, **own, origin=Origin(etag="1-1"))])
    ingest([FileSource([folder])], embedder, collection)
    assert record_id(path) in collection.ids()
    assert collection.count() == 4


def test_a_changed_file_keeps_what_people_changed_unless_its_metadata_changed(
    run: Run, collection: Collection, folder: Path, embedder: Any
) -> None:
    run()
    ids = {name: record.id for name, record in records_of(collection).items()}
    patch(
        collection, {ids["a.jpg"]: {"caption": "mine", "metadata": {"seen": True}, "hidden": True}}
    )
    (folder / "a.jpg").write_bytes(b"cropped")
    assert run() == IngestReport(updated=1, unchanged=2)
    apple = records_of(collection)["a.jpg"]
    assert (apple.caption, apple.metadata, apple.hidden) == ("mine", {"seen": True}, True)
    assert apple.vector == pytest.approx(embedder.direction(b"cropped"))
    (folder / "a.txt").write_text("theirs")
    run()
    apple = records_of(collection)["a.jpg"]
    assert (apple.caption, apple.metadata, apple.hidden) == ("theirs", {}, True)


def test_an_image_that_is_hidden_while_its_caption_is_embedded_stays_hidden(
    run: Run, collection: Collection, folder: Path, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    id, embed_texts = records_of(collection)["a.jpg"].id, embedder.embed_texts
    (folder / "a.txt").write_text("theirs")

    def slow(texts: Sequence[str]) -> Any:
        patch(collection, {id: {"hidden": True}})
        return embed_texts(texts)

    monkeypatch.setattr(embedder, "embed_texts", slow)
    run()
    apple = collection.get([id])[id]
    assert (apple.caption, apple.hidden) == ("theirs", True)


def test_bad_images_are_reported_and_the_others_come_in(
    run: Run, collection: Collection, folder: Path, embedder: Any
) -> None:
    for name, image in {"bad1": b"bad1", "bad2": b"bad2", "copy": b"bad1", "e": b"e"}.items():
        (folder / f"{name}.png").write_bytes(image)
    report = run(batch_size=4)
    assert report.added == 4
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


def test_what_json_holds_and_a_store_does_not_is_one_images_fault(
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
    assert records_of(collection)["e.jpg"].metadata["n"] == 2**64 - 1


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
    assert captions_of(collection).keys() == {"b.jpg", "c.jpg"}


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
    assert captions_of(collection)["c.jpg"] == "written for c"
    for settings in ({"captioner": captioner}, {}):
        assert run(**settings) == IngestReport(unchanged=3)
    # New metadata keeps it, a given caption replaces it, and without one it is generated again.
    (folder / "c.json").write_text('{"kind": "letter"}')
    assert run(captioner=captioner).updated == 1
    assert captions_of(collection)["c.jpg"] == "written for c"
    (folder / "c.txt").write_text("given")
    assert run(captioner=captioner).updated == 1
    assert captions_of(collection)["c.jpg"] == "given"
    (folder / "c.txt").unlink()
    assert run().updated == 1
    assert captions_of(collection)["c.jpg"] == ""
    assert captioner.seen == [b"c"]
    assert not embedder.embedded
    # Other bytes do not keep it.
    run(captioner=captioner)
    (folder / "c.jpg").write_bytes(b"other")
    run()
    assert captions_of(collection)["c.jpg"] == ""
    assert records_of(collection)["c.jpg"].text_vector is None


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
    assert (asked, captions_of(collection)["c.jpg"]) == ([b"c", b"d"], "")


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

    with show_progress(progress):
        run()
        run(batch_size=1)
    assert seen == [("index images", 5)] * 2
    assert sum(steps) == 10


def test_another_models_collection_is_not_filled(run: Run, embedder: Any) -> None:
    embedder.fingerprint = "model-two"
    with pytest.raises(SearchError, match="and not by model-two"):
        run()


def test_what_people_change_while_the_model_runs_is_kept(
    run: Run, collection: Collection, folder: Path
) -> None:
    run()
    (folder / "c.jpg").write_bytes(b"new bytes")
    id = record_id(str(folder / "c.jpg"))

    def change(images: Sequence[bytes]) -> list[str]:
        patch(collection, {id: {"hidden": True, "tags": ("mine",)}})
        return [""] * len(images)

    assert run(captioner=change).updated == 1
    record = collection.get([id])[id]
    assert (record.content, record.hidden, record.tags) == (
        content_id(b"new bytes"),
        True,
        ("mine",),
    )


def test_a_few_files_are_compared_with_their_own_records_only(
    run: Run, folder: Path, collection: Collection, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    pages = collection.pages
    read: list[str] = []

    def counted(*args: Any, **settings: Any) -> Iterator[list[Record]]:
        for page in pages(*args, **settings):
            read.extend(os.path.basename(record.path) for record in page)
            yield page

    monkeypatch.setattr(collection, "pages", counted)
    (folder / "a.txt").write_text("changed")
    (folder / "d.jpg").write_bytes(b"c")
    source = FileSource([folder / "a.jpg", folder / "d.jpg"])
    assert ingest([source], embedder, collection) == IngestReport(updated=1, duplicates=1)
    # The record that has the bytes of the copy.
    assert read == ["c.jpg"]
    monkeypatch.setattr(known_records, "_MOST_ENTRIES", 1)
    ingest([source], embedder, collection)
    assert sorted(read[1:]) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
