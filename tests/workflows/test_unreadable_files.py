"""A tar or table that cannot be read as a whole is reported, and other files are indexed."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.predict.torch_predictor import TorchPredictor
from coca.search.ingest.sample_source import UnreadableFile
from coca.search.stores import open_collection
from coca.workflows.collections.image_sources import open_sources, resolve_uris
from coca.workflows.collections.index import index_images
from tiny_data import image_bytes


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two tars and an image, a zip next to it."""
    folder = tmp_path / "data"
    with ShardWriter(folder, samples_per_shard=2) as writer:
        for n in range(4):
            writer.write(Sample(f"k{n}", image_bytes(n)))
    (folder / "4.png").write_bytes(image_bytes(4))
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as file:
        file.writestr("5.png", image_bytes(5))
        file.writestr("meta.jsonl", json.dumps({"image": "5.png"}))
    return folder


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])
    path.with_name(path.name + ".idx").unlink(missing_ok=True)


@pytest.mark.timeout(120)
def test_a_damaged_tar_and_zip_are_reported_keep_their_records_and_stop_nothing(
    data: Path, tmp_path: Path, model: TorchPredictor
) -> None:
    uri, pack = str(tmp_path / "pictures.db"), tmp_path / "pack.zip"
    (data / "old.tar").mkdir()
    (data / "old.tar" / "6.png").write_bytes(image_bytes(6))
    first = index_images([data, pack], model, uri=uri, captions=False)
    assert (first.report.added, first.report.bad) == (7, [])
    damage(data / "shard-000001.tar")
    damage(pack)
    os.mkfifo(data / "fifo.tar")
    again = index_images([data, pack], model, uri=uri, captions=False, prune=True).report
    assert (again.unchanged, again.removed) == (4, 0)
    assert {(Path(bad.path).name, bad.reason) for bad in again.bad} == {
        ("shard-000001.tar", "damaged_tar"),
        ("fifo.tar", "unreadable"),
        ("pack.zip", "bad_zip"),
    }
    with open_collection(uri) as collection:
        assert collection.count() == 7


def test_a_folder_called_tar_is_a_folder(data: Path) -> None:
    (data / "shard-x.tar").mkdir()
    (data / "4.png").rename(data / "shard-x.tar" / "4.png")
    (tars,) = open_sources(resolve_uris([f"{data}/*.tar"]))
    assert len(tars.entries()) == 4
    counts = [len(source.entries()) for source in open_sources(resolve_uris([data]))]
    assert counts == [1, 4]
    for path in data.glob("shard-0*"):
        path.unlink()
    assert [len(source.entries()) for source in open_sources(resolve_uris([data]))] == [1]
    with pytest.raises(DataError, match=r"no \.tar file is found"):
        open_sources(resolve_uris([f"{data}/*.tar"]))


def test_where_nothing_else_can_be_read_or_a_name_is_wrong_it_fails(
    data: Path, tmp_path: Path
) -> None:
    tar = data / "shard-000000.tar"
    damage(tar)
    with pytest.raises(DataError, match="truncated"):
        open_sources(resolve_uris([tar]))
    files, *rest = open_sources(resolve_uris([data / "4.png", tar]))
    assert len(files.entries()) == 1
    assert [type(one) for one in rest] == [UnreadableFile]
    with pytest.raises(DataError, match="missing"):
        open_sources(resolve_uris([data, tmp_path / "absent.csv"]))
