"""What a filling takes for lost: what is gone for sure, and nothing that only has no file."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.predict.torch_predictor import TorchPredictor
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.sources import FileSource, ImageSource
from coca.search.stores import open_collection
from coca.workflows.collections.image_resolver import ImageResolver, is_within
from coca.workflows.collections.image_sources import SourceUri, open_sources, resolve_uris
from coca.workflows.collections.index import IndexResult, index_images, index_sources
from coca.workflows.collections.watch import watch_folders
from tiny_data import image_bytes


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two tars, a zip, a Parquet file and a folder of images: 9 images."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "data"
    photos = folder / "photos"
    photos.mkdir(parents=True)
    pack(folder / "shards", range(3))
    with zipfile.ZipFile(folder / "pack.zip", "w") as file:
        for n in (3, 4):
            file.writestr(f"pics/{n}.png", image_bytes(n))
        rows = [{"image": f"pics/{n}.png", "caption": f"given {n}"} for n in (3, 4)]
        file.writestr("meta.jsonl", "\n".join(map(json.dumps, rows)))
    table = [{"key": f"k{n}", "image": image_bytes(n), "caption": f"given {n}"} for n in (5, 6)]
    parquet.write_table(arrow.Table.from_pylist(table), folder / "rows.parquet")
    for n in (7, 8):
        (photos / f"{n}.png").write_bytes(image_bytes(n))
        (photos / f"{n}.txt").write_text(f"given {n}")
    return folder


def pack(folder: Path, numbers: Sequence[int]) -> None:
    with ShardWriter(folder, samples_per_shard=2) as writer:
        for n in numbers:
            writer.write(Sample(f"k{n}", image_bytes(n), (f"given {n}",)))


def sources(data: Path) -> list[str | Path]:
    return [f"{data}/shards/*.tar", data / "pack.zip", data / "rows.parquet", data / "photos"]


def claims(uri: str) -> dict[str, tuple[str, str]]:
    """Path of each record -> its caption, and its etag."""
    with open_collection(uri) as collection:
        return {
            record.path: (record.caption, record.origin.etag)
            for page in collection.pages(vectors=False)
            for record in page
        }


@pytest.fixture
def before(data: Path, uri: str, model: TorchPredictor) -> dict[str, tuple[str, str]]:
    """What a collection of all of it holds."""
    index_images(sources(data), model, uri=uri, captions=False)
    held = claims(uri)
    assert sorted(caption for caption, _ in held.values()) == [f"given {n}" for n in range(9)]
    return held


def watched(folders: Sequence[Path], uri: str, model: TorchPredictor) -> Iterator[IndexResult]:
    def fill(sources: Sequence[ImageSource]) -> IndexResult:
        return index_sources(sources, model, uri=uri, captions=False, prune=True)

    uris = [SourceUri(str(folder), "folder") for folder in folders]
    return watch_folders(uris, fill, frame_interval_s=0.0, settle_s=0.1)


def test_archives_and_tables_in_a_folder_keep_their_records_until_they_are_gone(
    data: Path, uri: str, model: TorchPredictor, before: dict[str, tuple[str, str]]
) -> None:
    for prune in (False, True):
        again = index_images([data], model, uri=uri, captions=False, prune=prune)
        assert again.report == IngestReport(unchanged=2)
        assert claims(uri) == before
    rounds = watched([data], uri, model)
    assert next(rounds).report == IngestReport(unchanged=2)
    rounds.close()  # type: ignore[attr-defined]
    assert claims(uri) == before
    (data / "pack.zip").unlink()
    (data / "shards" / "shard-000001.tar").unlink()
    pruned = index_images([data], model, uri=uri, captions=False, prune=True)
    assert pruned.report == IngestReport(unchanged=2, removed=3)
    assert claims(uri).keys() == {
        path for path in before if "pack.zip" not in path and "000001" not in path
    }


def test_a_pattern_of_tars_loses_nothing_in_folders_below_nor_in_folders_called_tar(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    pack(data, range(3))
    pack(data / "below", range(1))
    (data / "b.tar").mkdir()
    (data / "b.tar" / "2.png").write_bytes(image_bytes(2))
    here = [f"{data}/shard-000000.tar/gone", f"{data}/shard-000010.tar/k0/sub.tar/k1"]
    below = [f"{data}/below/shard-000000.tar/gone", f"{data}/below/shard-000010.tar/k0"]
    others = [
        f"{data}/shard-000001.tar/k2",
        f"{data}/b.tar/2.png",
        f"{data}/b.tar/gone.png",
        # Of a drive that is not mounted.
        f"{data}/drive/shard-000000.tar/k0",
    ]
    for pattern, lost in (("*0.tar", here), ("*/*0.tar", below)):
        (source,) = open_sources(resolve_uris([f"{data}/{pattern}"]))
        assert [path for path in here + below + others if source.has_lost(path, "")] == lost


def test_keys_that_look_like_moments_of_a_video_are_no_moments(
    tmp_path: Path, uri: str, model: TorchPredictor
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with ShardWriter(tmp_path / "shards") as writer:
        for n in range(2):
            writer.write(Sample(f"cam/a#t={n}", image_bytes(n), (f"given {n}",)))
    rows = [{"key": f"b#t={n}", "image": image_bytes(n), "caption": f"given {n}"} for n in (2, 3)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    file = tmp_path / "shot#t=4"
    file.write_bytes(image_bytes(4))
    (file.with_suffix(".txt")).write_text("given 4")
    named: list[str | Path] = [f"{tmp_path}/shards/*.tar", tmp_path / "rows.parquet"]
    sources = [*open_sources(resolve_uris(named)), FileSource([file])]
    for report in (IngestReport(added=5), IngestReport(unchanged=5)):
        filled = index_sources(sources, model, uri=uri, captions=False, prune=True)
        assert filled.report == report
    held, read = claims(uri), ImageResolver()
    assert sorted(caption for caption, _ in held.values()) == [f"given {n}" for n in range(5)]
    for path, (caption, etag) in held.items():
        assert read(path, etag) == image_bytes(int(caption[-1]))
        assert is_within(path, etag) == (path != str(file))


def test_a_folder_that_vanishes_while_it_is_followed_may_be_a_drive(
    tmp_path: Path, uri: str, model: TorchPredictor, caplog: pytest.LogCaptureFixture
) -> None:
    drive, home = tmp_path / "drive", tmp_path / "home"
    for n, folder in enumerate((drive, home)):
        folder.mkdir()
        (folder / f"{n}.png").write_bytes(image_bytes(n))
    rounds = watched([drive, home], uri, model)
    assert next(rounds).report == IngestReport(added=2)
    drive.rename(tmp_path / "elsewhere")
    (home / "2.png").write_bytes(image_bytes(2))
    assert next(rounds).report == IngestReport(added=1)
    rounds.close()  # type: ignore[attr-defined]
    assert {Path(path).name for path in claims(uri)} == {"0.png", "1.png", "2.png"}
    assert f"{drive} is missing: its drive may be unmounted" in caplog.text
