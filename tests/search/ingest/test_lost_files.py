"""Files that are missing: which records are pruned, and which may be on an unmounted drive."""

import os
from pathlib import Path
from typing import Any

import pytest

from coca.search.ingest import known_records
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.sources import FileSource
from coca.search.store import Collection
from tiny_ingest import ingest


def write(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folder_in_which_nothing_is_left_keeps_its_records_unless_it_is_trusted(
    collection: Collection, tmp_path: Path, embedder: Any
) -> None:
    folder, other = write(tmp_path / "drive", "a.jpg"), write(tmp_path / "other", "b.jpg")
    ingest([FileSource([folder, other])], embedder, collection)
    (folder / "a.jpg").unlink()
    # A text file is not an image.
    (folder / "note.txt").write_text("a note")
    for folders in ([folder], [folder, other]):
        kept = ingest([FileSource(folders)], embedder, collection, prune=True)
        assert kept == IngestReport(unchanged=len(folders) - 1)
    # A missing file in a non-empty folder is lost.
    write(other, "more.jpg")
    (other / "b.jpg").unlink()
    report = ingest([FileSource([other])], embedder, collection, prune=True)
    assert report == IngestReport(added=1, removed=1)
    trusted = ingest(
        [FileSource([folder, other])], embedder, collection, prune=True, prune_empty=True
    )
    assert trusted == IngestReport(unchanged=1, removed=1)


def test_a_drive_below_the_folder_that_is_not_mounted_keeps_its_records(
    collection: Collection, tmp_path: Path, embedder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "pictures", "a.jpg", "gone.jpg")
    drive = folder / "drive"
    write(drive / "album", "b.jpg")
    ingest([FileSource([folder])], embedder, collection)
    (folder / "gone.jpg").unlink()
    drive.rename(tmp_path / "unplugged")
    drive.mkdir()
    kept = ingest([FileSource([folder])], embedder, collection, prune=True)
    assert kept == IngestReport(unchanged=1, removed=1)
    assert f"1 paths in {drive} are missing" in caplog.text
    assert f"until `coca index {drive} --prune --yes`" in caplog.text
    trusted = ingest([FileSource([drive])], embedder, collection, prune=True, prune_empty=True)
    assert trusted == IngestReport(removed=1)


def test_a_folder_that_cannot_be_read_keeps_its_records_also_when_it_is_trusted(
    collection: Collection, tmp_path: Path, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "pictures", "a.jpg", "b.jpg")
    ingest([FileSource([folder])], embedder, collection)
    (folder / "b.jpg").unlink()
    # For root, every folder is readable.
    monkeypatch.setattr(known_records, "doubt", lambda _: "it cannot be read (Permission denied)")
    monkeypatch.setattr(os, "access", lambda *_: False)
    kept = ingest([FileSource([folder])], embedder, collection, prune=True, prune_empty=True)
    assert kept == IngestReport(unchanged=1)


def test_records_of_a_missing_folder_are_removed_where_that_is_stated(
    collection: Collection, tmp_path: Path, embedder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder, other = write(tmp_path / "pictures", "a.jpg"), write(tmp_path / "other", "b.jpg")
    ingest([FileSource([folder, other])], embedder, collection)
    folder.rename(tmp_path / "elsewhere")
    gone = FileSource([other], missing=[folder])
    settings: Any = {"prune": True, "prune_empty": True}
    assert ingest([gone], embedder, collection, **settings) == IngestReport(unchanged=1, removed=1)
    assert not caplog.records
    assert ingest([gone], embedder, collection, **settings) == IngestReport(unchanged=1)
    assert f"{folder} does not exist, and the collection has no record of it" in caplog.text


def test_a_file_behind_a_broken_link_keeps_its_record(
    collection: Collection, tmp_path: Path, embedder: Any
) -> None:
    folder, drive = write(tmp_path / "pictures", "z.jpg"), write(tmp_path / "drive", "a.jpg")
    (folder / "a.jpg").symlink_to(drive / "a.jpg")
    ingest([FileSource([folder])], embedder, collection)
    drive.rename(tmp_path / "unplugged")
    report = ingest([FileSource([folder])], embedder, collection, prune=True)
    assert (report.unchanged, report.removed, len(report.bad)) == (1, 0, 1)
    assert collection.count() == 2
