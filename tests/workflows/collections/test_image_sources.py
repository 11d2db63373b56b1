import importlib.util
import json
import shutil
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from coca.core.errors import CocaError, ConfigError, DataError
from coca.core.installation import pip_install
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.search.ingest.parquet import VectorsInfo, write_vectors
from coca.search.ingest.photo_metadata import Annotation, read_header
from coca.search.ingest.sample_source import SampleSource
from coca.search.ingest.sources import FileSource, ImageSource
from coca.search.ingest.video_source import VideoSource
from coca.workflows.collections.image_sources import (
    SourceUri,
    check_filled,
    open_sources,
    resolve_uri,
    resolve_uris,
    vectors_files,
)
from tiny_data import CAPTIONS, image_bytes
from tiny_video import video


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an empty file of each kind."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.JPG", "a.mp4", "a.tar", "a.jsonl", "a.zip", "photos/b.png", "tars/b.tar"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "photos" / "folder.tar").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("photos", SourceUri("photos", "folder")),
        ("tars", SourceUri("tars", "folder")),
        ("photos/folder.tar", SourceUri("photos/folder.tar", "folder")),
        ("a.JPG", SourceUri("a.JPG", "image")),
        ("a.mp4", SourceUri("a.mp4", "video")),
        ("a.tar", SourceUri("a.tar", "tars")),
        ("tars/*.tar", SourceUri("tars/*.tar", "tars")),
        ("tars/{a,b}.tar", SourceUri("tars/{a,b}.tar", "tars")),
        ("s3://bucket/{00..99}.tar", SourceUri("s3://bucket/{00..99}.tar", "tars")),
        ("a.jsonl", SourceUri("a.jsonl", "manifest")),
        ("a.zip", SourceUri("a.zip", "zip")),
        ("https://example.org/a.PARQUET", SourceUri("https://example.org/a.PARQUET", "manifest")),
    ],
)
def test_a_uri_is_resolved_by_name_and_kind_of_file(
    folder: Path, uri: str, resolved: SourceUri
) -> None:
    assert resolve_uri(uri) == resolved


@pytest.mark.parametrize(
    ("uri", "kind", "advice"),
    [
        ("a.json", ConfigError, "one JSON object per line"),
        ("a.npy", ConfigError, "name the images themselves"),
        ("a.db", ConfigError, "--uri"),
        ("a.tar.gz", ConfigError, "compressed tars"),
        ("a.doc", ConfigError, "supported are folders"),
        ("https://example.org/a.jpg", ConfigError, "list them in a manifest"),
        ("absent", DataError, "absent does not exist"),
    ],
)
def test_a_uri_that_cannot_be_indexed_is_refused_with_a_remedy(
    folder: Path, uri: str, kind: type[CocaError], advice: str
) -> None:
    if "://" not in uri and uri != "absent":
        Path(uri).touch()
    with pytest.raises(kind, match=advice):
        resolve_uris(["photos", uri])


def test_a_uri_that_is_given_in_several_ways_is_resolved_once(folder: Path) -> None:
    uris = ["photos", f"{folder}/photos/", "a.zip", "./a.zip", "photos/../a.zip"]
    assert [one.kind for one in resolve_uris(uris)] == ["folder", "zip"]


def test_what_is_missing_is_resolved_where_its_records_are_to_be_removed(folder: Path) -> None:
    uris = ["photos", "absent", "absent/b.png", "absent.tar"]
    resolved = resolve_uris(uris, allow_missing=True)
    assert resolved == [
        SourceUri("photos", "folder"),
        *(SourceUri(uri, "missing") for uri in uris[1:]),
    ]
    for pattern in ("absent/*.tar", "absent/{0..3}.tar"):
        assert resolve_uris([pattern], allow_missing=True) == [SourceUri(pattern, "tars")]


def test_vectors_are_found_by_their_content_and_not_mixed_with_images(folder: Path) -> None:
    file = folder / "vectors" / "a.parquet"
    about = VectorsInfo(
        fingerprint="one", embed_dim=4, model="everyday", source="a.tar", images=0, bad=0
    )
    write_vectors(file, [], about)
    resolved = resolve_uris([folder / "vectors", file])
    assert resolved == [
        SourceUri(str(folder / "vectors"), "vectors", (file,)),
        SourceUri(str(file), "vectors", (file,)),
    ]
    assert vectors_files(resolved) == [file]
    assert vectors_files(resolve_uris(["photos", "a.JPG"])) == []
    with pytest.raises(ConfigError, match="one after the other"):
        vectors_files(resolve_uris([file, "photos"]))
    with pytest.raises(ConfigError, match="contains vectors and no images"):
        open_sources(resolved)


pytest.importorskip("av")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clips" / "a.mp4"
    path.parent.mkdir()
    path.write_bytes(video())
    return path


def test_a_video_is_a_frame_every_few_seconds_in_one_album(clip: Path) -> None:
    clip.with_suffix(".json").write_text(json.dumps({"caption": "a film", "tags": ["x"]}))
    source = VideoSource([clip.parent], frame_interval_s=0.5)
    (entry,) = source.entries()
    frames = list(source.read(entry))
    assert len(frames) > 2
    seconds = [frame.annotation.metadata["seconds"] for frame in frames]
    assert seconds[0] == 0
    assert all(0.4 < later - one < 0.6 for one, later in pairwise(seconds))
    assert frames[1].path == f"{clip}#t={seconds[1]:g}"
    assert {frame.annotation.album for frame in frames} == {str(clip)}
    assert {frame.annotation.caption for frame in frames} == {""}
    assert frames[0].annotation.metadata["video_caption"] == "a film"
    assert frames[0].annotation.tags == ("x",)
    assert read_header(frames[0].data).width > 0
    # The same frames each time: their bytes are what records go by.
    assert [frame.data for frame in source.read(entry)] == [frame.data for frame in frames]


def test_the_stamp_changes_with_the_step(clip: Path) -> None:
    stamps = {VideoSource([clip], frame_interval_s=s).entries()[0].etag for s in (0.5, 1.0, 0.5)}
    assert len(stamps) == 2


def test_broken_videos_are_bad_data(clip: Path) -> None:
    clip.write_bytes(b"no film")
    source = VideoSource([clip], frame_interval_s=1.0)
    with pytest.raises(DataError, match=r"a\.mp4"):
        list(source.read(source.entries()[0]))
    clip.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        list(source.read(source.entries()[0]))
    assert source.has_lost(str(clip), "")


def test_a_folder_with_videos_is_two_sources_unless_videos_are_unwanted(clip: Path) -> None:
    assert [len(one.entries()) for one in open_sources(resolve_uris([clip.parent]))] == [0, 1]
    assert [
        len(one.entries())
        for one in open_sources(resolve_uris([clip.parent]), frame_interval_s=0.0)
    ] == [0]
    assert [len(one.entries()) for one in open_sources(resolve_uris([clip]))] == [1]


def test_videos_in_a_folder_are_left_out_aloud_where_nothing_reads_them(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert len(open_sources(resolve_uris([clip.parent]))) == 1
    assert f"1 videos are skipped; what reads them: {pip_install('video')}" in caplog.text


def pack(folder: Path, count: int = 5, *, per_shard: int = 3) -> Path:
    with ShardWriter(folder, samples_per_shard=per_shard) as writer:
        for n in range(count):
            writer.write(Sample(f"k{n}", image_bytes(n), CAPTIONS[:2], ("cat",), {"year": n}))
    return folder


def only(uri: str | Path) -> SampleSource:
    """The one source of samples at a URI."""
    (source,) = (one for one in open_sources(resolve_uris([uri])) if isinstance(one, SampleSource))
    return source


def names(source: ImageSource) -> list[str]:
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
    read = next(source.read(entry))
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
    first, second = (next(source.read(entry)) for entry in source.entries())
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
    assert next(source.read(source.entries()[1])).data == image_bytes(1)


def test_a_zip_with_a_table_is_read_in_place_each_image_of_a_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "sets.zip"
    with zipfile.ZipFile(path, "w") as file:
        for n in range(3):
            file.writestr(f"pics/{n}.png", image_bytes(n))
        row = {"images": ["pics/0.png", "pics/2.png"], "caption": "two", "muscle": "arm"}
        file.writestr("meta.jsonl", json.dumps(row) + "\n")
    source = only(path)
    first, second = (next(source.read(entry)) for entry in source.entries())
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
    # A folder may contain tars and images.
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


def test_the_motion_of_a_live_photo_is_not_a_video_of_its_own(tmp_path: Path) -> None:
    for name in ("1.HEIC", "1.MOV", "2.jpg", "2.mov", "3.mov", "4.jpg", "4.mp4", "5.png", "5.mov"):
        (tmp_path / name).touch()
    source = VideoSource([tmp_path], frame_interval_s=5.0)
    assert [Path(entry.path).name for entry in source.entries()] == ["3.mov", "4.mp4", "5.mov"]


def test_a_video_that_is_named_and_skipped_is_explained(folder: Path) -> None:
    resolved = resolve_uris(["a.mp4"])
    with pytest.raises(DataError, match=r"a\.mp4 is a video, and a frame interval of 0 skips"):
        check_filled(resolved, open_sources(resolved, frame_interval_s=0.0))


def test_the_motion_of_a_live_photo_that_is_named_refers_to_its_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("1.HEIC", "1.mov", "2.jpg", "2.mov"):
        Path(name).touch()

    def check(*names: str) -> str:
        caplog.clear()
        resolved = resolve_uris(names)
        check_filled(resolved, open_sources(resolved))
        return caplog.text

    for names in (["1.mov"], ["1.mov", "2.mov"]):
        with pytest.raises(DataError, match=r"1\.mov is the motion of a Live Photo.*index 1\.HEIC"):
            check(*names)
    assert "1.mov is the motion of a Live Photo" in check("1.mov", "2.jpg")
    assert "motion" not in check("2.mov", "2.jpg")
    assert "motion" not in check("1.mov", str(tmp_path))
