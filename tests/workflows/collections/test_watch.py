import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import ConfigError, SearchError
from coca.core.files.local_files import Roots
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.predict.torch_predictor import TorchPredictor
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.sources import ImageSource
from coca.search.records import Record
from coca.search.sqlite.collection import SqliteCollection
from coca.search.stores import open_collection
from coca.workflows.collections.image_sources import SourceUri
from coca.workflows.collections.index import IndexResult, index_images, index_sources
from coca.workflows.collections.watch import changed_sources, check_watchable, watch_folders
from tiny_data import image_bytes
from tiny_model import write_model

pytest.importorskip("watchfiles")


@pytest.fixture(autouse=True)
def _looks_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coca.workflows.collections.watch._AGAIN_S", 0.2)


class Watched:
    """A folder that is followed, and the collection that it fills."""

    def __init__(self, folder: Path, model: TorchPredictor, named: str = "photos") -> None:
        self.folder = folder / "photos"
        self.folder.mkdir(parents=True)
        # Within, as with `coca index .`: its own changes must start no run.
        self.uri = str(self.folder / "pictures.db")
        self.faults: list[SearchError] = []
        self._model = model
        self._rounds = watch_folders(
            [SourceUri(str(folder / named), "folder")],
            self.index,
            frame_interval_s=0.0,
            settle_s=0.1,
        )

    def index(self, sources: Sequence[ImageSource]) -> IndexResult:
        if self.faults:
            raise self.faults.pop()
        return index_sources(
            sources,
            self._model,
            uri=self.uri,
            captions=False,
            prune=True,
        )

    def next(self) -> IndexResult:
        return next(self._rounds)

    def close(self) -> None:
        self._rounds.close()  # type: ignore[attr-defined]

    def paths(self) -> set[str]:
        with open_collection(self.uri) as collection:
            pages = collection.pages(vectors=False)
            return {os.path.relpath(one.path, self.folder) for page in pages for one in page}

    def put(self, name: str, number: int) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image_bytes(number))
        return path


@pytest.fixture
def watched(tmp_path: Path, model: TorchPredictor) -> Iterator[Watched]:
    watched = Watched(tmp_path, model)
    yield watched
    watched.close()


def test_new_changed_renamed_and_vanished_files_reach_the_collection(watched: Watched) -> None:
    watched.put("0.png", 0)
    assert watched.next().report.added == 1
    watched.put("1.png", 1)
    watched.put(".hidden.png", 9)
    assert watched.next().report.added == 1
    watched.put("0.png", 2)
    assert watched.next().report.updated == 1
    (watched.folder / "1.png").rename(watched.folder / "2.png")
    assert watched.next().report.updated == 1
    (watched.folder / "0.png").unlink()
    assert watched.next().report.removed == 1
    assert watched.paths() == {"2.png"}


def test_a_change_reads_its_own_records_and_what_is_no_image_none(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        watched.put(f"{n}.png", n)
    watched.put("far/9.png", 9)
    watched.next()
    pages, read = SqliteCollection.pages, set[str]()

    def seen(*args: Any, **settings: Any) -> Iterator[list[Record]]:
        for page in pages(*args, **settings):
            read.update(os.path.basename(record.path) for record in page)
            yield page

    monkeypatch.setattr(SqliteCollection, "pages", seen)
    # As editors and downloads leave them.
    watched.put("3.png.part", 3).rename(watched.folder / "3.png")
    assert watched.next().report == IngestReport(added=1)
    watched.put("copy.png", 3)
    assert watched.next().report == IngestReport(duplicates=1)
    (watched.folder / "3.png").unlink()
    (watched.folder / "copy.png").unlink()
    (watched.folder / "0.png").with_suffix(".txt").write_text("zero")
    assert watched.next().report == IngestReport(updated=1, removed=2)
    (watched.folder / "1.png").rename(watched.folder / "renamed.png")
    assert watched.next().report == IngestReport(updated=1)
    assert read == {"1.png", "3.png"}
    monkeypatch.undo()
    assert watched.paths() == {"0.png", "renamed.png", "2.png", "far/9.png"}


def test_folders_that_come_and_go_are_followed(watched: Watched, tmp_path: Path) -> None:
    watched.put("0.png", 0)
    watched.next()
    elsewhere = tmp_path / "album"
    elsewhere.mkdir()
    for n in (1, 2):
        (elsewhere / f"{n}.png").write_bytes(image_bytes(n))
    shutil.move(elsewhere, watched.folder / "album")
    assert watched.next().report.added == 2
    shutil.move(watched.folder / "album", elsewhere)
    assert watched.next().report.removed == 2
    assert watched.paths() == {"0.png"}


def test_a_folder_that_is_empty_at_first_loses_nothing(
    tmp_path: Path, model: TorchPredictor, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the drive with the images is not mounted yet."""
    watched = Watched(tmp_path, model)
    path = watched.put("0.png", 0)
    watched.next()
    watched.close()
    path.rename(tmp_path / "0.png")
    again = watch_folders(
        [SourceUri(str(watched.folder), "folder")],
        watched.index,
        frame_interval_s=0.0,
        settle_s=0.1,
    )
    assert next(again).report == IngestReport()
    assert "until `coca index" in caplog.text
    assert watched.paths() == {"0.png"}
    (tmp_path / "0.png").rename(path)
    assert next(again).report == IngestReport(unchanged=1)
    again.close()  # type: ignore[attr-defined]


def test_a_folder_in_a_hidden_one_is_followed_however_it_is_named(
    tmp_path: Path, model: TorchPredictor
) -> None:
    watched = Watched(tmp_path / ".cache", model, named="../.cache/photos")
    assert watched.next().report == IngestReport()
    watched.put("0.png", 0)
    watched.put(".thumbnails/1.png", 1)
    assert watched.next().report.added == 1
    assert watched.paths() == {"0.png"}
    (watched.folder / "0.png").unlink()
    assert watched.next().report.removed == 1
    watched.close()


def test_tars_that_come_change_and_go_are_followed(watched: Watched, tmp_path: Path) -> None:
    watched.put("0.png", 0)
    watched.next()

    def pack(name: str, numbers: range) -> Path:
        with ShardWriter(tmp_path / name) as writer:
            for n in numbers:
                writer.write(Sample(f"k{n}", image_bytes(n)))
        return writer.paths[0]

    tar = watched.folder / "a.tar"
    shutil.copy(pack("first", range(3)), tar)
    assert watched.next().report.added == 2
    pack("second", range(1, 3)).replace(tar)
    assert watched.next().report.unchanged == 2
    assert watched.paths() == {"0.png", "a.tar/k1", "a.tar/k2"}
    tar.unlink()
    (watched.folder / "a.tar.idx").unlink(missing_ok=True)
    assert watched.next().report.removed == 2


def test_changes_wait_where_the_store_refuses_them(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.next()
    watched.faults.append(SearchError("the disk is full"))
    watched.put("0.png", 0)
    assert watched.next().report.added == 1
    assert "the disk is full; 1 changes wait" in caplog.text


def test_a_changed_folder_is_searched_for_images_also_if_it_is_called_tar(tmp_path: Path) -> None:
    folder = tmp_path / "a.tar"
    folder.mkdir()
    (folder / "0.png").write_bytes(image_bytes(0))
    (source,) = changed_sources([folder], set(), Roots([tmp_path]), frame_interval_s=0.0)
    assert [entry.path for entry in source.entries()] == [str(folder / "0.png")]


class StopWatching(BaseException):
    """Raised by a callback, as Ctrl-C would."""


def test_a_watch_of_images_reports_the_result_of_each_run(
    tmp_path: Path, model: TorchPredictor
) -> None:
    reports: list[IngestReport] = []

    def watch(result: IndexResult) -> None:
        reports.append(result.report)
        assert result.skipped == {".crw": 1}
        if len(reports) == 2:
            raise StopWatching
        (photos / "1.png").write_bytes(image_bytes(1))

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "0.png").write_bytes(image_bytes(0))
    (photos / "raw.crw").touch()
    with pytest.raises(StopWatching):
        index_images([photos], model, uri=str(tmp_path / "a.db"), captions=False, watch=watch)
    assert reports == [IngestReport(added=1)] * 2


def test_only_folders_can_be_watched(tmp_path: Path) -> None:
    folder, image = SourceUri(str(tmp_path), "folder"), SourceUri(str(tmp_path / "a.png"), "image")
    check_watchable([folder, folder])
    for uri in (image, SourceUri("shards/*.tar", "tars")):
        with pytest.raises(ConfigError, match="only local folders"):
            check_watchable([folder, uri])


@pytest.mark.slow
def test_ctrl_c_ends_a_watch_cleanly(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.png").write_bytes(image_bytes(0))
    command = [sys.executable, "-m", "coca", "index", "photos", "--watch", "-m", str(model)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "1 added" in process.stdout.readline()
        process.stdout.readline()
        (tmp_path / "photos" / "1.png").write_bytes(image_bytes(1))
        assert "1 added" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    with open_collection(str(tmp_path / "coca.db")) as collection:
        assert collection.count() == 2


@pytest.mark.parametrize("has_av", [True, False])
def test_new_and_deleted_videos_are_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_av: bool
) -> None:
    if has_av:
        pytest.importorskip("av", reason="needs the extra `video`")
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    changed = [tmp_path / name for name in ("a.jpg", "a.mp4", "gone.mp4")]
    for path in changed[:2]:
        path.write_bytes(b"")
    *opened, gone = changed_sources(changed, (), Roots([tmp_path]), frame_interval_s=1.0)
    names = [Path(entry.path).name for source in opened for entry in source.entries()]
    assert names == (["a.jpg", "a.mp4"] if has_av else ["a.jpg"])
    assert all(gone.has_lost(str(path), "") for path in changed[2:])
    assert not any(gone.has_lost(str(path), "") for path in changed[:2])


def test_a_changed_xmp_file_indexes_its_image_again(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.jpg.xmp", "ab.jpg", "b.jpg", "b.xmp"):
        (tmp_path / name).write_bytes(b"")
    changed = [tmp_path / "a.jpg.xmp", tmp_path / "b.xmp"]
    sources = changed_sources(changed, (), Roots([tmp_path]), frame_interval_s=0.0)
    paths = [Path(entry.path).name for source in sources for entry in source.entries()]
    assert paths == ["a.jpg", "b.jpg"]
