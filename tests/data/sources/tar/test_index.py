import io
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import DataError
from coca.data.sources.tar import index as tar_index
from coca.data.sources.tar.index import (
    ABSENT,
    IMAGE,
    JSON,
    LABEL,
    TARS_PER_PROCESS,
    TEXT,
    TarIndex,
    index_tars,
    load_index,
    split_name,
)
from coca.data.sources.tar.scan import TarScan, scan_tar
from coca.data.storage.storage import Storage
from range_server import RangeServer, Serve
from tiny_datasets import FILES, make_tar


def load(path: Path, *, folder: str = "", checksums: bool = True) -> TarIndex:
    return load_index(str(path), Storage(), folder=folder, checksums=checksums)


def keys(index: TarIndex) -> list[str]:
    return [record.key for record in index.read(range(len(index)))]


def header(path: Path) -> dict[str, Any]:
    """The first line of an index."""
    found: dict[str, Any] = json.loads(path.read_bytes().partition(b"\n")[0])
    return found


@pytest.mark.parametrize("checksums", [True, False])
def test_the_index_has_the_offset_of_every_file_of_a_sample(
    tmp_path: Path, checksums: bool
) -> None:
    content = make_tar(tmp_path / "x.tar", FILES)
    index = load(tmp_path / "x.tar", checksums=checksums)
    assert keys(index) == ["a", "deep/b"]
    wanted = [[b"picture", b"one", b"{}", None], [b"other", None, None, b"7"]]
    for record, members in zip(index.read([0, 1]), wanted, strict=True):
        assert (record.crc32s is not None) == checksums
        for column, member in zip((IMAGE, TEXT, JSON, LABEL), members, strict=True):
            offset, size = record.offsets[column], record.sizes[column]
            if member is None:
                assert size == ABSENT
            else:
                assert content[offset : offset + size] == member
                assert record.crc32s is None or record.crc32s[column] == zlib.crc32(member)


@pytest.mark.parametrize("count", [3, pytest.param(2 * TARS_PER_PROCESS, marks=pytest.mark.slow)])
def test_tars_are_indexed_in_parallel_and_counted_in_order(tmp_path: Path, count: int) -> None:
    paths = [tmp_path / f"{number:02d}.tar" for number in range(count)]
    for number, path in enumerate(paths):
        make_tar(path, {f"{n}.jpg": b"x" for n in range(number)})
    assert list(index_tars(list(map(str, paths)))) == list(range(count))
    assert [header(path.with_name(f"{path.name}.idx"))["rows"] for path in paths] == [*range(count)]
    make_tar(paths[1], [("a.jpg", b"1"), ("a.png", b"2")])
    with pytest.raises(DataError, match="two files of one kind for the key a") as caught:
        list(index_tars(list(map(str, paths))))
    assert caught.value.reason == "duplicate_key"


@pytest.mark.parametrize("at", [-1, -30])
def test_a_record_that_was_damaged_is_reported(tmp_path: Path, at: int) -> None:
    path = tmp_path / "x.tar"
    make_tar(path, FILES)
    index = load(path)
    content = bytearray((tmp_path / "x.tar.idx").read_bytes())
    content[at] ^= 1
    (tmp_path / "x.tar.idx").write_bytes(content)
    assert index.read([0])[0].key == "a"
    with pytest.raises(DataError, match=r"x\.tar\.idx was damaged or replaced"):
        index.read([1])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a", "jpg")),
        ("./a.JPG", ("a", "jpg")),
        ("x.y/a.b.jpg", ("x.y/a", "b.jpg")),
        ("plain", ("plain", "")),
    ],
)
def test_names_are_split_at_the_first_dot_of_the_file(name: str, parts: tuple[str, str]) -> None:
    assert split_name(name) == parts


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tars that were read whole."""
    scanned: list[str] = []
    scan = scan_tar

    def watch(stream: io.BufferedIOBase, path: str, *, checksums: bool) -> object:
        scanned.append(path)
        return scan(stream, path, checksums=checksums)

    monkeypatch.setattr(tar_index, "scan_tar", watch)
    return scanned


def test_an_index_of_another_size_or_an_older_one_is_made_again(
    tmp_path: Path, scans: list[str]
) -> None:
    path = tmp_path / "x.tar"
    make_tar(path, FILES)
    load(path)
    make_tar(path, {**FILES, "c.jpg": b"x" * 20_000})
    os.utime(path, ns=(0, 0))
    assert "c" in keys(load(path))
    # Of the same size, since tars are filled up to whole records, but written later.
    make_tar(path, {**FILES, "d.jpg": b"x" * 20_000})
    later = (tmp_path / "x.tar.idx").stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))
    assert "d" in keys(load(path))
    assert len(scans) == 3


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"\xff{",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        b'{"version": 2, "tar": {"bytes": 10240}, "end": 0, "members": []}',
        b'{"version": 3}\n',
        {"rows": 1},
        {"rows": -1},
        {"rows": "2"},
        {"key_bytes": 0},
        {"key_bytes": 10**9},
        {"end": -1},
        {"end": 10**9},
        {"tar": {}},
        {"more": 1},
    ],
)
def test_a_damaged_or_foreign_index_is_made_again(
    tmp_path: Path, change: bytes | dict[str, Any], scans: list[str]
) -> None:
    path, kept = tmp_path / "x.tar", tmp_path / "x.tar.idx"
    make_tar(path, FILES)
    load(path)
    first, _, rest = kept.read_bytes().partition(b"\n")
    if isinstance(change, dict):
        change = json.dumps(json.loads(first) | change).encode() + b"\n" + rest
    kept.write_bytes(change)
    assert keys(load(path)) == ["a", "deep/b"]
    assert len(scans) == 2
    assert header(kept)["rows"] == 2


def test_the_index_of_a_tar_in_a_read_only_folder_is_kept_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scans: list[str]
) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    make_tar(data / "x.tar", FILES)
    data.chmod(0o555)
    load(data / "x.tar")
    load(data / "x.tar")
    data.chmod(0o755)
    assert [file.name for file in data.iterdir()] == ["x.tar"]
    assert len(list((cache / "coca" / "index").iterdir())) == 1
    assert len(scans) == 1


def test_an_index_that_can_be_kept_nowhere_does_not_stop_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_tar(tmp_path / "x.tar", FILES)
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        index = load(tmp_path / "x.tar", folder=str(tmp_path / "file"))
    assert keys(index) == ["a", "deep/b"]
    assert "can be kept nowhere" in caplog.text


def test_a_tar_that_is_written_over_at_the_same_size_and_time_is_indexed_again(
    tmp_path: Path, scans: list[str]
) -> None:
    path = tmp_path / "x.tar"
    make_tar(path, FILES)
    load(path)
    before = path.stat()
    make_tar(path, {**FILES, "a.jpg": b"PICTURE"})  # in place, at once, and its time put back
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (found,) = load(path).read([0])
    assert found.crc32s is not None
    assert found.crc32s[IMAGE] == zlib.crc32(b"PICTURE")
    assert len(scans) == 2


def test_a_tar_that_was_just_written_is_indexed_when_the_clock_of_files_has_moved_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(tar_index, "TICK_S", 3_600.0)
    monkeypatch.setattr("coca.data.sources.tar.index.time.sleep", waits.append)
    make_tar(tmp_path / "x.tar", FILES)
    load(tmp_path / "x.tar")
    (wait_s,) = waits
    assert 0 < wait_s <= 3_600


def test_a_copy_that_keeps_its_time_keeps_its_index(tmp_path: Path, scans: list[str]) -> None:
    (tmp_path / "there").mkdir()
    make_tar(tmp_path / "x.tar", FILES)
    first = load(tmp_path / "x.tar")
    for name in ("x.tar", "x.tar.idx"):
        shutil.copy2(tmp_path / name, tmp_path / "there" / name)
    assert load(tmp_path / "there" / "x.tar").digest() == first.digest()
    assert len(scans) == 1
    # It is now the copy's own.
    kept = header(tmp_path / "there" / "x.tar.idx")
    assert kept["tar"]["inode"] == (tmp_path / "there" / "x.tar").stat().st_ino


@pytest.mark.parametrize(
    "files",
    [
        {**FILES, "a.jpg": b"PICTURE"},
        {**FILES, "more.jpg": b"x"},
        {name.replace("a.", "c."): content for name, content in FILES.items()},
        {},
    ],
)
def test_another_tar_of_the_same_size_and_time_is_recognized_by_its_content(
    tmp_path: Path, scans: list[str], files: dict[str, bytes]
) -> None:
    path, other = tmp_path / "x.tar", tmp_path / "other.tar"
    make_tar(path, FILES)
    make_tar(other, files)
    for one in (path, other):
        os.utime(one, ns=(10**18, 10**18))
    load(path)
    other.replace(path)
    index = load(path)
    assert len(scans) == 2
    path.with_name("x.tar.idx").unlink()
    assert load(path).digest() == index.digest()


def test_a_tar_that_changes_while_it_is_indexed_keeps_no_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.tar"
    make_tar(path, FILES)
    scan = scan_tar

    def touch(stream: io.BufferedIOBase, name: str, *, checksums: bool) -> TarScan:
        found = scan(stream, name, checksums=checksums)
        os.utime(path, ns=(5, 5))
        return found

    monkeypatch.setattr(tar_index, "scan_tar", touch)
    assert keys(load(path)) == ["a", "deep/b"]
    assert "changed while it was indexed" in caplog.text
    assert not (tmp_path / "x.tar.idx").exists()


@pytest.mark.parametrize("etags", [True, False])
def test_a_remote_tar_is_recognized_by_its_etag_or_else_by_its_content(
    tmp_path: Path, serve: Serve, scans: list[str], etags: bool
) -> None:
    path, kept = tmp_path / "x.tar", str(tmp_path / "kept")
    make_tar(path, FILES)
    server = serve(tmp_path, etags=etags)
    url = f"{server.url}/x.tar"
    for _ in range(2):
        assert keys(load_index(url, Storage(), folder=kept)) == ["a", "deep/b"]
    assert len(scans) == 1
    make_tar(path, {"z.jpg": b"elsewhere"})
    for _ in range(2):
        assert keys(load_index(url, Storage(), folder=kept)) == ["z"]
    assert len(scans) == 2


def test_an_index_that_was_uploaded_with_its_tar_is_used(
    tmp_path: Path, serve: Serve, scans: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_tar(tmp_path / "x.tar", FILES)
    load(tmp_path / "x.tar")
    server = serve(tmp_path, etags=True)
    for _ in range(2):
        index = load_index(f"{server.url}/x.tar", Storage())
        assert keys(index) == ["a", "deep/b"]
    assert len(scans) == 1
    make_tar(tmp_path / "x.tar", {"z.jpg": b"elsewhere"})
    assert keys(load_index(f"{server.url}/x.tar", Storage())) == ["z"]
    assert len(scans) == 2


def test_bodies_of_large_files_behind_a_url_are_skipped_and_small_ones_read_along(
    tmp_path: Path, serve: Serve
) -> None:
    large = {
        f"{row}.{end}": bytes(n) for row in range(4) for end, n in (("jpg", 3 << 20), ("txt", 9))
    }
    small = {f"{row:03}.jpg": bytes(3_000) for row in range(300)}
    make_tar(tmp_path / "large.tar", large)
    make_tar(tmp_path / "small.tar", small)
    server, kept = serve(tmp_path), str(tmp_path / "kept")
    assert keys(load_index(f"{server.url}/large.tar", Storage(), folder=kept)) == list("0123")
    assert server.sent_bytes < (tmp_path / "large.tar").stat().st_size / 20
    asked = server.seen["range"]
    found = load_index(f"{server.url}/small.tar", Storage(), folder=kept)
    assert keys(found) == [f"{row:03}" for row in range(300)]
    # A small first part, then windows of megabytes, and the check of the end.
    assert server.seen["range"] - asked <= 4


@pytest.fixture
def bucket(
    tmp_path: Path,
    serve: Serve,
    s3_client: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> RangeServer:
    """A server of the bucket `bucket`, and a cache for this test."""
    server = serve(tmp_path, etags=True)
    s3_client(server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bucket").mkdir()
    make_tar(tmp_path / "bucket" / "x.tar", FILES)
    return server


def test_an_index_is_written_to_a_folder_behind_a_url_once_and_read_by_other_machines(
    bucket: RangeServer, scans: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "s3://bucket/index"
    for _ in range(2):
        assert list(index_tars(["s3://bucket/x.tar"], folder=place)) == [2]
    # The index once, the catalog twice.
    assert (bucket.seen["put"], len(scans)) == (3, 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of another machine"))
    assert keys(load_index("s3://bucket/x.tar", Storage(), folder=place)) == ["a", "deep/b"]
    assert len(scans) == 1
    make_tar(tmp_path / "bucket" / "x.tar", {"z.jpg": b"elsewhere"})
    # A run reads the place and does not write to it.
    assert keys(load_index("s3://bucket/x.tar", Storage(), folder=place)) == ["z"]
    assert (bucket.seen["put"], len(scans)) == (3, 2)
    assert list(index_tars(["s3://bucket/x.tar"], folder=place)) == [1]
    assert bucket.seen["put"] == 5


def test_a_place_of_indexes_that_cannot_be_written_is_one_sentence(bucket: RangeServer) -> None:
    bucket.refuses_writes = "AccessDenied"
    with pytest.raises(DataError, match=r"index/x\.tar-\w+\.idx cannot be written: .*AccessDenied"):
        list(index_tars(["s3://bucket/x.tar"], folder="s3://bucket/index"))
