import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from coca.search.ingest import snapshot
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.pipeline import ingest
from coca.search.ingest.snapshot import PathCache
from coca.search.ingest.sources import AnySource, Entry, FileSource, SourceImage
from coca.search.milvus.collection import Collection
from coca.search.milvus.rows import Rows


def test_fillings_that_follow_each_other_look_only_at_the_records_of_their_files(
    collection: Collection, tmp_path: Path, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jpg").write_bytes(name.encode())
    path_cache, copy, odd = PathCache(), folder / "z.jpg", folder / 'ü "x" [1].jpg'
    copy.write_bytes(b"a")
    first = ingest([FileSource([folder])], embedder, collection, path_cache=path_cache)
    assert first == IngestReport(added=3, duplicates=1)
    reads = Rows.read_through

    def read_through(self: Rows, columns: Any, filter: str = "") -> Any:
        assert filter, "it reads the whole collection"
        return reads(self, columns, filter)

    monkeypatch.setattr(Rows, "read_through", read_through)

    def touch(*paths: Path) -> IngestReport:
        sources: list[AnySource] = [
            FileSource([path for path in paths if path.exists()]),
            Gone(paths),
        ]
        return ingest(sources, embedder, collection, path_cache=path_cache, prune=True)

    # Existing images are found by path, by bytes, or as a copy.
    assert touch(folder / "b.jpg", copy) == IngestReport(unchanged=2)
    odd.write_bytes(b"c")
    assert touch(odd) == IngestReport(duplicates=1)
    for image in (b"odd", b"odder"):
        odd.write_bytes(image)
        assert touch(odd) == IngestReport(updated=1)
    # A changed or deleted copy leaves the record; deleting the last file deletes the record.
    odd.unlink()
    copy.write_bytes(b"z")
    assert touch(copy, odd) == IngestReport(updated=1, removed=1)
    (folder / "a.jpg").rename(folder / "n.jpg")
    assert touch(folder / "a.jpg", folder / "n.jpg").updated == 1
    (folder / "n.jpg").unlink()
    assert touch(folder / "n.jpg").removed == 1
    monkeypatch.undo()
    claimed = [Path(path).name for _, _, _, origin in collection.origins() for path in origin.files]
    assert sorted(claimed) == ["b.jpg", "c.jpg", "z.jpg"]
    assert ingest([FileSource([folder])], embedder, collection, prune=True) == IngestReport(
        unchanged=3
    )


def test_the_captions_of_a_removed_image_are_removed(
    collection: Collection, tmp_path: Path, embedder: Any
) -> None:
    folder, path_cache = tmp_path / "pictures", PathCache()
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jpg").write_bytes(b"same")
        (folder / f"{name}.txt").write_text(f"words of {name}")
    ingest([FileSource([folder])], embedder, collection, path_cache=path_cache, prune=True)
    (before,) = collection.read_through()
    assert [record.caption for record in before] == ["words of a"]
    (folder / "a.jpg").unlink()
    gone = Gone([folder / "a.jpg"])
    assert ingest([gone], embedder, collection, path_cache=path_cache, prune=True) == IngestReport(
        updated=1
    )
    (after,) = collection.read_through()
    assert [record.caption for record in after] == ["words of b"]
    assert ingest([FileSource([folder])], embedder, collection, prune=True) == IngestReport(
        unchanged=1
    )


def test_a_folder_in_which_nothing_is_left_keeps_its_records_unless_it_is_trusted(
    collection: Collection, tmp_path: Path, embedder: Any
) -> None:
    folder, other = tmp_path / "drive", tmp_path / "other"
    for path in (folder, other):
        path.mkdir()
        (path / f"{path.name}.jpg").write_bytes(path.name.encode())
    ingest([FileSource([folder, other])], embedder, collection)
    (folder / "drive.jpg").unlink()
    # A text file is not an image.
    (folder / "note.txt").write_text("a note")
    for folders in ([folder], [folder, other]):
        kept = ingest([FileSource(folders)], embedder, collection, prune=True)
        assert kept == IngestReport(unchanged=len(folders) - 1)
    # A missing file in a non-empty folder is lost.
    (other / "more.jpg").write_bytes(b"more")
    (other / "other.jpg").unlink()
    assert ingest([FileSource([other])], embedder, collection, prune=True) == IngestReport(
        added=1, removed=1
    )
    trusted = ingest(
        [FileSource([folder, other])], embedder, collection, prune=True, prune_empty=True
    )
    assert trusted == IngestReport(unchanged=1, removed=1)


def test_a_drive_below_the_folder_that_is_not_mounted_keeps_its_records(
    collection: Collection, tmp_path: Path, embedder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder, drive = tmp_path / "pictures", tmp_path / "pictures" / "drive"
    (drive / "album").mkdir(parents=True)
    for path in (folder / "a.jpg", folder / "gone.jpg", drive / "album" / "b.jpg"):
        path.write_bytes(path.name.encode())
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
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jpg").write_bytes(name.encode())
    ingest([FileSource([folder])], embedder, collection)
    (folder / "b.jpg").unlink()
    # For root, every folder is readable.
    monkeypatch.setattr(snapshot, "doubt", lambda _: "it cannot be read (Permission denied)")
    monkeypatch.setattr(os, "access", lambda *_: False)
    source = [FileSource([folder])]
    kept = ingest(source, embedder, collection, prune=True, prune_empty=True)
    assert kept == IngestReport(unchanged=1)


def test_records_of_a_missing_folder_are_removed_where_that_is_stated(
    collection: Collection, tmp_path: Path, embedder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder, other = tmp_path / "pictures", tmp_path / "other"
    for path in (folder, other):
        path.mkdir()
        (path / f"{path.name}.jpg").write_bytes(path.name.encode())
    ingest([FileSource([folder, other])], embedder, collection)
    folder.rename(tmp_path / "elsewhere")
    gone = FileSource([other], missing=[folder])
    settings: Any = {"prune": True, "prune_empty": True}
    assert ingest([gone], embedder, collection, **settings) == IngestReport(unchanged=1, removed=1)
    # pymilvus warns of its own on old servers.
    assert not [record for record in caplog.records if record.name.startswith("coca")]
    assert ingest([gone], embedder, collection, **settings) == IngestReport(unchanged=1)
    assert f"{folder} does not exist, and the collection has no record of it" in caplog.text


def test_a_copy_takes_no_caption_from_a_file_that_is_out_of_reach(
    collection: Collection, tmp_path: Path, embedder: Any
) -> None:
    folder, drive = tmp_path / "pictures", tmp_path / "drive"
    for path in (folder, drive):
        path.mkdir()
    (drive / "a.jpg").write_bytes(b"same")
    (folder / "a.jpg").symlink_to(drive / "a.jpg")
    (folder / "a.txt").write_text("words of a")
    (folder / "z.jpg").write_bytes(b"same")
    (folder / "z.txt").write_text("words of z")
    assert ingest([FileSource([folder])], embedder, collection) == IngestReport(
        added=1, duplicates=1
    )
    (before,) = collection.read_through()
    drive.rename(tmp_path / "unplugged")
    report = ingest([FileSource([folder])], embedder, collection, prune=True)
    assert (report.unchanged, report.removed, len(report.bad)) == (1, 0, 1)
    (after,) = collection.read_through()
    assert after == before
    assert [record.caption for record in after] == ["words of a"]


class Gone:
    """Source of files, some of which may be missing."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = [str(path) for path in paths]

    def entries(self) -> Sequence[Entry]:
        return []

    def names(self) -> Sequence[str]:
        return self._paths

    def series(self, entry: Entry) -> Iterator[SourceImage]:
        raise AssertionError(entry)

    def has_lost(self, path: str, etag: str) -> bool:
        return path in self._paths and not os.path.exists(path)
