import io
import json
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ConfigError, DataError
from coca.core.files.formats import IMAGE_FORMATS
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.tar.index import index_tars
from coca.data.sources.tar.shards import REMOTE_BLOCK, ShardsConfig, ShardSource, ShardWriter
from coca.data.storage.remote import RemoteFolder
from coca.data.storage.storage import Storage
from tiny_data import image_bytes, make_samples


def open_shards(path: str | Path | tuple[str, ...], **options: Any) -> ShardSource:
    path = path if isinstance(path, tuple) else str(path)
    source = open_source(ShardsConfig(path=path, **options))
    assert isinstance(source, ShardSource)
    return source


def pack(folder: Path, samples: Iterable[Sample], *, samples_per_shard: int = 4) -> list[Path]:
    with ShardWriter(folder, samples_per_shard=samples_per_shard) as writer:
        for sample in samples:
            writer.write(sample)
    return writer.paths


def read_all(source: ShardSource) -> list[Sample]:
    return [source.read(row) for row in range(len(source))]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
keys = st.lists(st.from_regex(r"[a-zé0-9_-]{1,6}(/[a-z]{1,4})?", fullmatch=True), unique=True)
values = st.none() | st.integers() | texts | st.lists(st.floats(-1, 1), max_size=2)
words = st.lists(texts, max_size=3)


@given(data=st.data(), names=keys, samples_per_shard=st.integers(1, 5))
def test_what_is_written_is_read(
    data: st.DataObject,
    names: list[str],
    samples_per_shard: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    samples = [
        Sample(
            name,
            image_bytes(number % 4),
            tuple(data.draw(words)),
            tuple(data.draw(words)),
            data.draw(st.dictionaries(st.sampled_from(["width", "url", "a b"]), values)),
        )
        for number, name in enumerate(names)
    ]
    folder = tmp_path_factory.mktemp("shards")
    pack(folder, samples, samples_per_shard=samples_per_shard)
    if samples:
        assert read_all(open_shards(folder)) == samples


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    samples = make_samples(6)
    first, second = (pack(tmp_path / name, samples) for name in ("a", "b"))
    assert [path.name for path in first] == ["shard-000000.tar", "shard-000001.tar"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        indexes = [Path(f"{path}.idx").read_bytes().partition(b"\n") for path in (one, other)]
        assert indexes[0][2] == indexes[1][2]
        heads = [json.loads(head) for head, _, _ in indexes]
        assert len({json.dumps({**it, "tar": it["tar"]["bytes"]}) for it in heads}) == 1


def test_other_readers_find_the_usual_layout(tmp_path: Path) -> None:
    sample = Sample("x/a", image_bytes(1, form="JPEG"), ("one", "two"), ("cat",), {"width": 3})
    (path,) = pack(tmp_path, [sample])
    with tarfile.open(path) as tar:
        content = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
        assert {entry.mtime for entry in tar} == {0}
    assert list(content) == ["x/a.jpg", "x/a.json", "x/a.txt"]
    assert content["x/a.jpg"] == sample.image
    assert content["x/a.txt"] == b"one"
    expected = {"captions": ["one", "two"], "labels": ["cat"], "width": 3}
    assert content["x/a.json"] == json.dumps(expected).encode()


@pytest.mark.parametrize("form", IMAGE_FORMATS)
def test_images_of_every_format_are_written(tmp_path: Path, form: str) -> None:
    sample = Sample("a", image_bytes(1, form=form))
    pack(tmp_path, [sample])
    assert read_all(open_shards(tmp_path)) == [sample]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample("a.b", image_bytes(1)), "bad_key"),
        (Sample("/a", image_bytes(1)), "bad_key"),
        (Sample("a\0", image_bytes(1)), "bad_key"),
        (Sample("a", b"no image"), "not_an_image"),
        (Sample("a", b"RIFF\0\0\0\0WAVE"), "not_an_image"),
        (Sample("a", image_bytes(1), metadata={"caption": "x"}), "bad_record"),
        (Sample("a", image_bytes(1), metadata={"x": object()}), "bad_record"),
        (Sample("a", image_bytes(1), ("\ud800",)), "bad_record"),
    ],
)
def test_a_sample_that_a_tar_cannot_hold_is_refused(
    tmp_path: Path, sample: Sample, reason: str
) -> None:
    writer = ShardWriter(tmp_path)
    with pytest.raises(DataError) as caught:
        writer.write(sample)
    assert caught.value.reason == reason


def test_a_key_is_written_once(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.write(Sample("a", image_bytes(1)))
    with pytest.raises(DataError, match="written twice"):
        writer.write(Sample("a", image_bytes(2)))


def test_old_and_new_shards_are_not_mixed(tmp_path: Path) -> None:
    pack(tmp_path, make_samples(1))
    with pytest.raises(ConfigError, match="already"):
        ShardWriter(tmp_path)
    with pytest.raises(ConfigError, match="at least 1"):
        ShardWriter(tmp_path / "new", samples_per_shard=0)


def add(tar: tarfile.TarFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


def test_the_layout_of_img2dataset_is_read(tmp_path: Path) -> None:
    record = {"caption": "a car", "url": "http://x", "key": "000000001", "status": "success"}
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        add(
            tar,
            {
                "000000001.jpg": image_bytes(1),
                "000000001.txt": b"a car",
                "000000001.json": json.dumps(record).encode(),
                "000000002.jpg": image_bytes(2),
                "000000002.txt": b" a\nboat \n",
                "000000003.webp": image_bytes(3),
                "000000003.cls": b"7\n",
                "000000004.png": b"",
                "000000004.json": b'{"caption": null}',
            },
        )
    samples = read_all(open_shards(tmp_path / "*.tar"))
    assert [s.captions for s in samples] == [("a car",), ("a\nboat",), (), ()]
    assert samples[0].metadata == {"url": "http://x", "key": "000000001", "status": "success"}
    assert samples[2].labels == ("7",)
    assert samples[3].image == b""


def test_files_of_a_sample_may_be_far_apart(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, {f"{n}.jpg": image_bytes(n, side=60) for n in range(3)})
        add(tar, {f"{n}.txt": str(n).encode() for n in range(3)})
    samples = read_all(open_shards(tmp_path / "a.tar"))
    assert samples == [Sample(str(n), image_bytes(n, side=60), (str(n),)) for n in range(3)]


def test_a_flipped_byte_is_a_bad_sample_and_leaves_the_others(tmp_path: Path) -> None:
    (path,) = pack(tmp_path, make_samples(4))
    content = bytearray(path.read_bytes())
    content[content.index(image_bytes(2)) + 30] ^= 1
    source = open_shards(path)
    with path.open("r+b") as file:
        file.write(content)
    with pytest.raises(DataError, match=r"s0002 in .*shard-000000\.tar differs") as caught:
        source.read(2)
    assert caught.value.reason == "checksum"
    results = source.read_many([0, 1, 2, 3])
    assert [isinstance(result, DataError) for result in results] == [False, False, True, False]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a.txt": b"one"}, "no_image"),
        ({"a.jpg": b"x", "a.json": b"{"}, "bad_record"),
        ({"a.jpg": b"x", "a.json": b'{"caption": 1.5}'}, "bad_record"),
        ({"a.jpg": b"x", "a.txt": b"\xff"}, "bad_text"),
        ({"a.jpg": b"x", "a.cls": b"\xff"}, "bad_text"),
    ],
)
def test_a_damaged_sample_names_the_cause(
    tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, files)
    source = open_shards(tmp_path)
    with pytest.raises(DataError, match="a") as caught:
        source.read(0)
    assert caught.value.reason == reason
    assert source.key(0) == "a"


def test_a_tar_that_shrinks_or_vanishes_under_a_run_makes_bad_samples(tmp_path: Path) -> None:
    first, second = pack(tmp_path, make_samples(8))
    source = open_shards(tmp_path)
    with first.open("r+b") as file:
        file.truncate(1000)
    second.unlink()
    reasons = [r.reason if isinstance(r, DataError) else "" for r in source.read_many([3, 7])]
    assert reasons == ["truncated", "missing"]


def test_a_missing_shard_is_found_when_it_is_opened(tmp_path: Path) -> None:
    pack(tmp_path, make_samples(8))
    with pytest.raises(DataError, match=r"shard-000002\.tar"):
        open_shards(tmp_path / "shard-{000000..000002}.tar")


def test_a_wrong_index_makes_bad_samples_not_wrong_ones(tmp_path: Path) -> None:
    (path,) = pack(tmp_path, make_samples(4))
    index = path.with_name(path.name + ".idx")
    head, newline, records = index.read_bytes().partition(b"\n")
    width = len(records) // 4
    index.write_bytes(head + newline + records[: 2 * width] + b"x" + records[2 * width + 1 :])
    results = open_shards(path).read_many([0, 1, 2, 3])
    reasons = [it.reason if isinstance(it, DataError) else "" for it in results]
    assert reasons == ["", "", "damaged_index", ""]


def test_a_file_that_is_too_large_is_a_bad_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = make_samples(4)
    large = Sample("large", image_bytes(1) + bytes(5_000))
    pack(tmp_path, [*samples[:2], large, *samples[2:]], samples_per_shard=5)
    monkeypatch.setattr("coca.data.sources.tar.shards.MAX_IMAGE_BYTES", 5_000)
    results = open_shards(tmp_path).read_many(range(5))
    assert [one for one in results if isinstance(one, Sample)] == samples
    assert "a file of large in" in str(results[2])
    assert "bytes, and at most 5,000 are read" in str(results[2])


def test_remote_shards_are_read_in_blocks_and_indexed_in_the_given_folder(tmp_path: Path) -> None:
    packed, kept = tmp_path / "packed", tmp_path / "kept"
    for path in pack(packed, make_samples(6)):
        path.with_name(f"{path.name}.idx").unlink()
    source = open_shards(f"file://{packed}/*.tar", index_folder=str(kept))
    assert len(list(kept.iterdir())) == 2
    assert source.block_size == REMOTE_BLOCK
    assert source.read_many([5, 0, 4]) == [make_samples(6)[n] for n in (5, 0, 4)]
    assert source.fingerprint == open_shards(packed).fingerprint
    assert open_shards(packed, block_size=9).block_size == 9


@pytest.fixture
def catalogued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Five remote tars, all indexed into a remote folder by a machine; another reads them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of another machine"))
    for path in pack(tmp_path / "packed", make_samples(20)):
        path.with_name(f"{path.name}.idx").unlink()
    options = {"path": f"file://{tmp_path}/packed/*.tar", "index_folder": f"file://{tmp_path}/kept"}
    tars = Storage().find([options["path"]], suffix=".tar")
    assert list(index_tars(tars, folder=options["index_folder"])) == [4] * 5
    shutil.rmtree(tmp_path / "cache of another machine")
    return options


def test_tars_are_opened_by_their_catalog_and_no_index_is_copied(
    catalogued: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []
    for name in ("state", "read", "states"):
        original = getattr(RemoteFolder, name)

        def spy(self: RemoteFolder, *given: Any, _: Any = original) -> Any:
            requests.append(_.__name__)
            return _(self, *given)

        monkeypatch.setattr(RemoteFolder, name, spy)
    source = open_shards(**catalogued)
    # The pattern and the states of the tars are lists; the catalog is asked for its size and read.
    assert requests == ["states", "state", "read", "states"]
    assert len(source) == 20
    assert source.fingerprint == open_shards(tmp_path / "packed").fingerprint
    assert not (tmp_path / "cache of another machine").exists()
    requests.clear()
    assert source.read_many([5, 4, 6, 7]) == [make_samples(20)[n] for n in (5, 4, 6, 7)]
    # The records of the tar in one block, and the samples.
    assert requests == ["read", "read"]


def test_a_tar_that_changed_behind_its_catalog_is_indexed_again(
    catalogued: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "coca")
    (changed,) = pack(tmp_path / "new", [Sample("new", image_bytes(1), ("new",))])
    shutil.copy(changed, tmp_path / "packed" / "shard-000001.tar")
    source = open_shards(**catalogued)
    indexed = [message for message in caplog.messages if message.startswith("indexing")]
    assert indexed == [f"indexing file://{tmp_path}/packed/shard-000001.tar"]
    assert [source.key(row) for row in range(3, 6)] == ["s0003", "new", "s0008"]


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"[\n" * 5])
def test_without_its_catalog_a_tar_is_opened_by_its_own_index(
    catalogued: dict[str, Any], tmp_path: Path, damage: bytes
) -> None:
    (catalog,) = (tmp_path / "kept").glob("*.jsonl")
    catalog.write_bytes(damage)
    assert open_shards(**catalogued).read(7) == make_samples(20)[7]
    catalog.unlink()
    assert open_shards(**catalogued).read(7) == make_samples(20)[7]
    assert not (tmp_path / "cache of another machine").exists()


def test_a_deleted_tar_belongs_to_the_source_that_would_have_read_it(tmp_path: Path) -> None:
    first, _ = pack(tmp_path / "tars", make_samples(6))
    gone, elsewhere = (f"{tmp_path}/{name}/gone.tar/key" for name in ("tars", "other"))
    for path in (str(first.parent), f"{first.parent}/*.tar"):
        source = open_shards(path)
        assert (source.owned(gone, ""), source.owned(elsewhere, "")) == (True, False)
    assert not open_shards(first).owned(gone, "")
