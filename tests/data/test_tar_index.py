import io
import json
import logging
import os
import tarfile
import zlib
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data import tar_index
from coca.data.storage import Storage
from coca.data.tar_index import IMAGE, JSON, LABEL, TEXT, TarIndex, load_index, split_name

FILES = {
    "a.jpg": b"picture",
    "a.txt": b"one",
    "a.json": b"{}",
    "./deep/b.PNG": b"other",
    "deep/b.cls": b"7",
    "deep/b.seg.png": b"mask",
    "readme": b"?",
}


def make_tar(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items() if isinstance(files, dict) else files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    path.write_bytes(stream.getvalue())
    return stream.getvalue()


def load(path: Path, **options: str) -> TarIndex:
    return load_index(str(path), Storage(), **options)


def test_the_index_says_where_every_file_of_a_sample_lies(tmp_path: Path) -> None:
    content = make_tar(tmp_path / "x.tar", FILES)
    index = load(tmp_path / "x.tar")
    assert index.keys.tolist() == [b"a", b"deep/b"]
    wanted = [
        [b"picture", b"one", b"{}", None],
        [b"other", None, None, b"7"],
    ]
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
    scan = tar_index.scan_tar

    def watch(stream: io.BufferedIOBase, path: str) -> object:
        scanned.append(path)
        return scan(stream, path)

    monkeypatch.setattr(tar_index, "scan_tar", watch)
    return scanned


def test_an_index_is_made_once_and_kept_beside_the_tar(tmp_path: Path, scans: list[str]) -> None:
    path = tmp_path / "x.tar"
    make_tar(path, FILES)
    first, second = load(path), load(path)
    assert scans == [str(path)]
    assert first.digest() == second.digest()
    kept = json.loads((tmp_path / "x.tar.idx").read_text())
    assert kept["tar_bytes"] == path.stat().st_size
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
        b'{"version": 1, "tar_bytes": SIZE, "members": [["a.jpg", 0, 99999999, 0]]}',
        b'{"version": 1, "tar_bytes": SIZE, "members": [["a.jpg"]]}',
        b'{"version": 0, "tar_bytes": SIZE, "members": []}',
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


@pytest.mark.parametrize("cut", [0, 100, 600, 1100, 1700, 5000])
def test_a_truncated_tar_is_found_and_the_last_good_member_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.tar"
    content = make_tar(path, {"a.jpg": b"x" * 100, "b.jpg": b"y" * 3000})
    path.write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"x\.tar is truncated") as caught:
        load(path)
    assert caught.value.reason == "damaged_tar"
    # The header of the folder takes 512 bytes; a.jpg with its header ends at 1,536.
    assert ("a.jpg" if cut > 1536 else "none") in str(caught.value)
    assert not (tmp_path / "x.tar.idx").exists()


def test_a_tar_without_its_end_mark_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    content = make_tar(path, {"a.jpg": b"x" * 512})
    path.write_bytes(content[: 3 * 512])
    with pytest.raises(DataError, match=r"no end mark after its last good member a\.jpg"):
        load(path)


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    content = bytearray(make_tar(path, {"a.jpg": b"x", "b.jpg": b"y", "c.jpg": b"z"}))
    content[content.index(b"b.jpg")] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.* last good member a\.jpg"):
        load(path)


def test_a_compressed_tar_is_refused_with_the_reason(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "x.tar"
    path.write_bytes(gzip.compress(make_tar(path, FILES)))
    with pytest.raises(DataError, match="not a plain tar"):
        load(path)


@pytest.mark.parametrize("twin", ["a.jpg", "a.webp", "./a.JPEG"])
def test_two_pictures_of_one_key_are_refused(tmp_path: Path, twin: str) -> None:
    make_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), (twin, b"3")])
    with pytest.raises(DataError, match="for the key a: ") as caught:
        load(tmp_path / "x.tar")
    assert caught.value.reason == "duplicate_key"


def test_an_empty_tar_has_an_index_without_samples(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", {})
    assert len(load(tmp_path / "x.tar").keys) == 0


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = b"\xe9t\xe9.jpg".decode("utf-8", "surrogateescape")
    make_tar(tmp_path / "x.tar", {name: b"x"})
    for _ in range(2):
        assert load(tmp_path / "x.tar").keys.tolist() == [b"\xe9t\xe9"]
