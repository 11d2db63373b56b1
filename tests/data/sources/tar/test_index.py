import io
import json
import logging
import os
import shutil
import zlib
from pathlib import Path

import pytest

from coca.data.sources.tar import index as tar_index
from coca.data.sources.tar.index import IMAGE, JSON, LABEL, TEXT, TarIndex, load_index, split_name
from coca.data.sources.tar.scan import Scan, scan_tar
from coca.data.storage.storage import Storage
from range_server import Serve
from tiny_datasets import FILES, make_tar

STATED = b'{"version": 2, "tar": {"bytes": SIZE}, "end": 0, "members": '


def load(path: Path, **options: str) -> TarIndex:
    return load_index(str(path), Storage(), **options)


def test_the_index_has_the_offset_of_every_file_of_a_sample(tmp_path: Path) -> None:
    content = make_tar(tmp_path / "x.tar", FILES)
    index = load(tmp_path / "x.tar")
    assert index.keys.tolist() == [b"a", b"deep/b"]
    wanted = [[b"picture", b"one", b"{}", None], [b"other", None, None, b"7"]]
    for row, members in enumerate(wanted):
        for column, member in zip((IMAGE, TEXT, JSON, LABEL), members, strict=True):
            offset, size = index.offsets[row, column], index.sizes[row, column]
            if member is None:
                assert size == -1
            else:
                assert content[offset : offset + size] == member
                assert index.crc32s[row, column] == zlib.crc32(member)


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

    def watch(stream: io.BufferedIOBase, path: str) -> object:
        scanned.append(path)
        return scan(stream, path)

    monkeypatch.setattr(tar_index, "scan_tar", watch)
    return scanned


def test_an_index_is_made_once_and_kept_next_to_the_tar(tmp_path: Path, scans: list[str]) -> None:
    path = tmp_path / "x.tar"
    make_tar(path, FILES)
    first, second = load(path), load(path)
    assert scans == [str(path)]
    assert first.digest() == second.digest()
    kept = json.loads((tmp_path / "x.tar.idx").read_text())
    assert kept["tar"]["bytes"] == path.stat().st_size
    assert ["a.jpg", first.offsets[0, IMAGE], 7, zlib.crc32(b"picture")] in kept["members"]


def test_an_index_of_another_size_or_an_older_one_is_made_again(
    tmp_path: Path, scans: list[str]
) -> None:
    path = tmp_path / "x.tar"
    make_tar(path, FILES)
    load(path)
    make_tar(path, {**FILES, "c.jpg": b"x" * 20_000})
    os.utime(path, ns=(0, 0))
    assert b"c" in load(path).keys.tolist()
    # Of the same size, since tars are filled up to whole records, but written later.
    make_tar(path, {**FILES, "d.jpg": b"x" * 20_000})
    later = (tmp_path / "x.tar.idx").stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))
    assert b"d" in load(path).keys.tolist()
    assert len(scans) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff{",
        b"[]",
        STATED + b'[["a.jpg", 0, 99999999, 0]]}',
        STATED + b'[["a.jpg"]]}',
        STATED + b"[[5, 0, 1, 0]]}",
        STATED + b'[["a.jpg", 0, 1, -1]]}',
        STATED + b'[["a.jpg", 0, 1, 4294967296]]}',
        b'{"version": 2, "tar": {"bytes": SIZE}, "end": -1, "members": []}',
        b'{"version": 2, "tar": {}, "end": 0, "members": []}',
        b"[" * 100_000,
        b'{"version": 0, "tar_bytes": SIZE, "members": []}',
        b'{"version": 1, "tar_bytes": SIZE, "members": []}',
    ],
)
def test_a_damaged_or_foreign_index_is_made_again(
    tmp_path: Path, content: bytes, scans: list[str]
) -> None:
    path = tmp_path / "x.tar"
    size = len(make_tar(path, FILES))
    (tmp_path / "x.tar.idx").write_bytes(content.replace(b"SIZE", str(size).encode()))
    assert load(path).keys.tolist() == [b"a", b"deep/b"]
    assert scans
    assert json.loads((tmp_path / "x.tar.idx").read_text())["members"]


def test_an_index_folder_is_used_alone_and_keeps_tars_of_one_name_apart(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        make_tar(tmp_path / str(number) / "x.tar", {f"{number}.jpg": b"x"})
    for number in (0, 1, 0):
        index = load(tmp_path / str(number) / "x.tar", folder=str(kept))
        assert index.keys.tolist() == [str(number).encode()]
    assert len(list(kept.iterdir())) == 2
    assert not list(tmp_path.glob("*/x.tar.idx"))


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
    assert len(index.keys) == 2
    assert "can be kept nowhere" in caplog.text


def test_a_tar_that_is_replaced_by_an_older_one_of_the_same_size_is_indexed_again(
    tmp_path: Path, scans: list[str]
) -> None:
    # As `cp -p`, `rsync -t` and `mv` do: the new tar is older than the index of the old one.
    path, other = tmp_path / "x.tar", tmp_path / "other.tar"
    assert len(make_tar(path, FILES)) == len(make_tar(other, {"z.jpg": b"elsewhere"}))
    os.utime(other, ns=(0, 0))
    load(path)
    other.replace(path)
    index = load(path)
    assert index.keys.tolist() == [b"z"]
    assert scans == [str(path)] * 2
    assert load(path).digest() == index.digest()
    assert len(scans) == 2


def test_a_tar_that_is_written_over_at_the_same_size_and_time_is_indexed_again(
    tmp_path: Path, scans: list[str]
) -> None:
    path = tmp_path / "x.tar"
    make_tar(path, FILES)
    load(path)
    before = path.stat()
    make_tar(path, {**FILES, "a.jpg": b"PICTURE"})  # in place, at once, and its time put back
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load(path).crc32s[0, IMAGE] == zlib.crc32(b"PICTURE")
    assert len(scans) == 2


def test_a_copy_that_keeps_its_time_keeps_its_index(tmp_path: Path, scans: list[str]) -> None:
    (tmp_path / "there").mkdir()
    make_tar(tmp_path / "x.tar", FILES)
    first = load(tmp_path / "x.tar")
    for name in ("x.tar", "x.tar.idx"):
        shutil.copy2(tmp_path / name, tmp_path / "there" / name)
    assert load(tmp_path / "there" / "x.tar").digest() == first.digest()
    assert len(scans) == 1
    # It is now the copy's own.
    kept = json.loads((tmp_path / "there" / "x.tar.idx").read_text())
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

    def touch(stream: io.BufferedIOBase, name: str) -> Scan:
        found = scan(stream, name)
        os.utime(path, ns=(5, 5))
        return found

    monkeypatch.setattr(tar_index, "scan_tar", touch)
    load(path)
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
        assert load_index(url, Storage(), folder=kept).keys.tolist() == [b"a", b"deep/b"]
    assert len(scans) == 1
    make_tar(path, {"z.jpg": b"elsewhere"})
    for _ in range(2):
        assert load_index(url, Storage(), folder=kept).keys.tolist() == [b"z"]
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
        assert index.keys.tolist() == [b"a", b"deep/b"]
    assert len(scans) == 1
    make_tar(tmp_path / "x.tar", {"z.jpg": b"elsewhere"})
    assert load_index(f"{server.url}/x.tar", Storage()).keys.tolist() == [b"z"]
    assert len(scans) == 2
