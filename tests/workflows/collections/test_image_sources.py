import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.search.ingest.pipeline import ingest
from coca.search.ingest.sources.base import FileSource, ItemSource, SeriesSource
from coca.search.ingest.sources.images import Annotation
from coca.search.milvus.collection import Collection
from coca.workflows.collections.image_sources import SampleSource, check_filled, open_sources
from coca.workflows.collections.source_uris import resolve_uris
from tiny_data import CAPTIONS, image_bytes


class StandIn:
    """A stub model: every image gets the same vector."""

    fingerprint, embed_dim = "one", 4

    def embed_images(self, images: Any) -> Any:
        return np.tile(np.eye(4, dtype=np.float32)[0], (len(images), 1))

    embed_texts = embed_images


def pack(folder: Path, count: int = 5, *, per_shard: int = 3) -> Path:
    with ShardWriter(folder, samples_per_shard=per_shard) as writer:
        for n in range(count):
            writer.write(Sample(f"k{n}", image_bytes(n), CAPTIONS[:2], ("cat",), {"year": n}))
    return folder


def only(uri: str | Path) -> SampleSource:
    """The one source of samples at a URI."""
    (source,) = (one for one in open_sources(resolve_uris([uri])) if isinstance(one, SampleSource))
    return source


def names(source: ItemSource | SeriesSource) -> list[str]:
    return [Path(entry.path).name for entry in source.entries()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.png").write_bytes(image_bytes(n))
    return folder


@pytest.mark.parametrize("named", ["shards", "shards/*.tar", "shards/shard-00000{0..1}.tar"])
def test_tars_are_found_by_folder_by_pattern_and_by_braces(tmp_path: Path, named: str) -> None:
    pack(tmp_path / "shards")
    source = only(tmp_path / named)
    assert names(source) == ["k0", "k1", "k2", "k3", "k4"]
    entry = source.entries()[3]
    assert entry.path == str(tmp_path / "shards" / "shard-000001.tar" / "k3")
    read = source.read(entry)
    assert (read.path, read.etag) == (entry.path, entry.etag)
    metadata = {"year": 3, "captions": list(CAPTIONS[:2])}
    assert (read.data, read.annotation) == (
        image_bytes(3),
        Annotation(CAPTIONS[0], metadata, ("cat",)),
    )


@pytest.mark.parametrize(
    "named", [["shards", "shards/shard-000000.tar"], ["shards/*.tar", "shards/../shards"]]
)
def test_a_tar_that_is_passed_twice_is_read_once(tmp_path: Path, named: list[str]) -> None:
    pack(tmp_path / "shards")
    sources = open_sources(resolve_uris(tmp_path / name for name in named))
    assert [one for source in sources for one in names(source)] == ["k0", "k1", "k2", "k3", "k4"]


def test_a_tar_that_is_missing_in_an_empty_folder_is_not_lost(tmp_path: Path) -> None:
    """The drive of the folder may not be mounted."""
    for name in ("one", "two"):
        pack(tmp_path / name)
    paths = [entry.path for entry in only(tmp_path / "*/*.tar").entries()]
    assert len(paths) == 10
    shutil.move(tmp_path / "two", tmp_path / "unplugged.d")
    (tmp_path / "two").mkdir()
    source = only(tmp_path / "one" / "*.tar")
    pattern = only(tmp_path / "*" / "*.tar")
    assert not any(pattern.has_lost(path, "etag") for path in paths if "/two/" in path)
    (tmp_path / "two" / "note").touch()
    assert all(pattern.has_lost(path, "etag") for path in paths if "/two/" in path)
    assert not any(source.has_lost(path, "etag") for path in paths if "/two/" in path)


def test_the_etag_of_a_tars_member_changes_with_its_image_and_with_its_caption(
    tmp_path: Path,
) -> None:
    samples = [
        Sample("k", image_bytes(0), ("a car",)),
        Sample("k", image_bytes(0), ("a bus",)),
        Sample("k", image_bytes(1), ("a car",)),
        Sample("k", image_bytes(0), ("a car",)),
    ]
    etags = []
    for n, sample in enumerate(samples):
        with ShardWriter(tmp_path / str(n)) as writer:
            writer.write(sample)
        etags.append(open_sources(resolve_uris([writer.paths[0]]))[0].entries()[0].etag)
    assert len(set(etags)) == 3
    assert etags[0] == etags[3]


def test_members_and_tars_that_are_gone_are_lost_and_others_are_not(tmp_path: Path) -> None:
    pack(tmp_path / "shards")
    (source,) = open_sources(resolve_uris([str(tmp_path / "shards" / "*.tar")]))
    within = tmp_path / "shards"
    assert source.has_lost(str(within / "shard-000000.tar" / "k9"), "")
    assert source.has_lost(str(within / "shard-000009.tar" / "k0"), "")
    assert not source.has_lost(str(tmp_path / "other" / "shard-000000.tar" / "k0"), "")
    assert not source.has_lost(str(within / "a.png"), "")


def test_rows_of_a_manifest_that_share_an_image_are_one_entry_with_all_captions(
    photos: Path,
) -> None:
    table = photos / "table.jsonl"
    rows: list[dict[str, object]] = [{"image": "0.png", "caption": text} for text in CAPTIONS]
    rows.insert(1, {"image": "1.png", "caption": "alone", "year": 3})
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = only(table)
    # The name is the one that a folder gives, so that both are the same record.
    assert [entry.path for entry in source.entries()] == [
        str(photos / "0.png"),
        str(photos / "1.png"),
    ]
    first, second = map(source.read, source.entries())
    assert first.annotation == Annotation(CAPTIONS[0], {"captions": list(CAPTIONS)})
    assert second.annotation == Annotation("alone", {"year": 3})


def test_a_manifests_etag_changes_with_the_row_and_with_the_file(photos: Path) -> None:
    table = photos / "table.csv"

    def etags() -> list[str]:
        return [entry.etag for entry in open_sources(resolve_uris([table]))[0].entries()]

    table.write_text("image,caption\n0.png,a\n1.png,b\n2.png,c\n")
    before = etags()
    assert etags() == before
    table.write_text("image,caption\n0.png,new\n1.png,b\n2.png,c\n")
    (photos / "1.png").write_bytes(image_bytes(9))
    after = etags()
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True]


def test_a_row_that_left_the_manifest_is_lost_but_not_what_another_table_brought(
    photos: Path,
) -> None:
    table, other = photos / "table.csv", photos / "other.csv"
    for path in (table, other):
        path.write_text("image\n0.png\n1.png\n")
    gone = open_sources(resolve_uris([table]))[0].entries()[1]
    foreign = open_sources(resolve_uris([other]))[0].entries()[1]
    table.write_text("image\n0.png\n")
    source = only(table)
    assert source.has_lost(gone.path, gone.etag)
    assert not source.has_lost(foreign.path, foreign.etag)


def test_images_inside_a_table_are_named_by_table_and_key(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = tmp_path / "t.parquet"
    rows = [{"key": f"k{n}", "image": image_bytes(n), "caption": "x"} for n in range(2)]
    parquet.write_table(arrow.Table.from_pylist(rows), table)
    source = only(table)
    assert [entry.path for entry in source.entries()] == [f"{table}/k0", f"{table}/k1"]
    assert source.read(source.entries()[1]).data == image_bytes(1)


def test_a_zip_with_a_table_is_read_in_place_each_image_of_a_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "sets.zip"
    with zipfile.ZipFile(path, "w") as file:
        for n in range(3):
            file.writestr(f"pics/{n}.png", image_bytes(n))
        row = {"images": ["pics/0.png", "pics/2.png"], "caption": "two", "muscle": "arm"}
        file.writestr("meta.jsonl", json.dumps(row) + "\n")
    source = only(path)
    first, second = map(source.read, source.entries())
    assert (first.path, second.path) == (f"{path}/pics/0.png", f"{path}/pics/2.png")
    assert (first.data, second.data) == (image_bytes(0), image_bytes(2))
    assert second.annotation == Annotation("two", {"muscle": "arm"})


def test_uris_of_several_kinds_are_opened_together(photos: Path, tmp_path: Path) -> None:
    pack(tmp_path / "shards", 2)
    table = tmp_path / "t.csv"
    table.write_text("image\nphotos/0.png\n")
    found = open_sources(
        resolve_uris([photos, tmp_path / "shards" / "*.tar", table, photos / "0.png"])
    )
    assert [len(source.entries()) for source in found] == [3, 2, 1]
    # A folder may hold tars and images.
    shutil.copy(photos / "0.png", tmp_path / "shards" / "own.png")
    files, tars = open_sources(resolve_uris([tmp_path / "shards"]))
    assert isinstance(files, FileSource)
    assert (names(files), names(tars)) == (["own.png"], ["k0", "k1"])


def test_uris_without_images_are_reported(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = tmp_path / "photo"
    (empty / ".hidden").mkdir(parents=True)
    shutil.copy(photos / "0.png", empty / ".hidden")
    (empty / "notes.pdf").write_bytes(b"x")
    with pytest.raises(DataError, match=r"nothing to index in .*photo: no image \(\.avif"):
        check_filled(resolve_uris([empty]), open_sources(resolve_uris([empty])))
    assert not caplog.records
    both = resolve_uris([empty, photos])
    check_filled(both, open_sources(both))
    (warned,) = caplog.records
    assert warned.getMessage() == f"there is nothing to index in {empty}"


def test_records_of_a_csv_are_found_by_its_numbers_and_have_its_times(
    tmp_path: Path, photos: Path
) -> None:
    table = tmp_path / "m.csv"
    rows = [f"photos/{n}.png,{2017 + n},{1717180200 + n},00{n}" for n in range(3)]
    table.write_text("image,year,time,code\n" + "\n".join(rows))
    with Collection.open(
        str(tmp_path / "x.db"), embed_dim=4, fingerprint="one", create=True
    ) as index:
        ingest(open_sources(resolve_uris([table])), StandIn(), index)
        found = index.get(index.ids('metadata["year"] > 2017')).values()
        assert {Path(one.path).name for one in found} == {"1.png", "2.png"}
        assert {one.time for one in found} == {1717180201, 1717180202}
        assert index.count('metadata["code"] == "001"') == 1
        assert index.count("time >= 1717180202") == 1


@pytest.mark.parametrize("name", ["a\\u0000.png", "\\ud800.png"])
def test_a_name_that_no_file_can_have_is_a_bad_image(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.jsonl").write_text(f'{{"image": "{name}"}}')
    source = only(tmp_path / "m.jsonl")
    (entry,) = source.entries()
    with pytest.raises(DataError, match="names no file"):
        source.read(entry)
