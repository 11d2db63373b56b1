import io
import json
import logging
import os
import shutil
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data import tar_index
from coca.data.storage import Storage
from coca.data.tar_index import IMAGE, JSON, LABEL, TEXT, TarIndex, load_index, split_name
from coca.data.tar_scan import Scan, scan_tar
from range_server import Serve

FILES = {
    "a.jpg": b"picture",
    "a.txt": b"one",
    "a.json": b"{}",
    "./deep/b.PNG": b"other",
    "deep/b.cls": b"7",
    "deep/b.seg.png": b"mask",
    "readme": b"?",
}


STATED = b'{"version": 2, "tar": {"bytes": SIZE}, "end": 0, "members": '


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
    scan = scan_tar

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
def test_another_tar_of_the_same_size_and_time_is_told_by_its_content(
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
def test_a_remote_tar_is_told_by_its_etag_or_else_by_its_content(
    tmp_path: Path, serve: Serve, scans: list[str], etags: bool
) -> None:
    pytest.importorskip("obstore")
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
    pytest.importorskip("obstore")
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
    with pytest.raises(DataError, match=r"no end mark at byte 1,536.*last good member: a\.jpg"):
        load(path)


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    content = bytearray(make_tar(path, {"a.jpg": b"x", "b.jpg": b"y", "c.jpg": b"z"}))
    content[content.index(b"b.jpg")] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.* last good member: a\.jpg"):
        load(path)


@pytest.mark.parametrize("lost", ["header", "joined"])
def test_members_behind_an_end_mark_are_not_lost_silently(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "x.tar"
    content = make_tar(path, {"a.jpg": b"x", "b.jpg": b"y", "c.jpg": b"z"})
    at = content.index(b"b.jpg")
    # As a disk that lost a sector leaves it, or `cat x.tar y.tar`.
    broken = content[:at] + bytes(512) + content[at + 512 :]
    path.write_bytes(broken if lost == "header" else content + content)
    with pytest.raises(DataError, match=r"data behind the end mark at byte [\d,]+\)") as caught:
        load(path)
    assert ("a.jpg" if lost == "header" else "c.jpg") in str(caught.value)


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


def header(name: str, size: bytes, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """A header of 512 bytes whose 12 bytes of size are given as they are."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[157:257] = link.ljust(100, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


HUGE = b"\x80" + (1 << 80).to_bytes(11, "big")
BELOW_0 = b"\xff" + (-512).to_bytes(11, "big", signed=True)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (header("b.jpg", BELOW_0), "b.jpg has a size of -512 bytes"),
        (header("b", BELOW_0, b"?"), "b has a size of -512 bytes"),
        (header("b", BELOW_0, b"L"), "a header has a size of"),
        (header("b", HUGE, b"?"), "is truncated"),
        (header("b", HUGE, b"L"), "is truncated"),
        (header("b.jpg", HUGE), "b.jpg lacks its last"),
        (header("b.jpg", b"%011o" % (1 << 32)), "b.jpg lacks its last 4,294,9"),
        ((header("L", b"%011o" % 1, b"L") + b"x".ljust(512, b"\0")) * 3_000, "recursion"),
        (header("b.jpg", b"%011o" % 1, b"S"), "b.jpg is a sparse file"),
    ],
)
def test_a_hostile_header_is_one_sentence_that_names_the_tar(
    tmp_path: Path, broken: bytes, complaint: str
) -> None:
    path = tmp_path / "x.tar"
    good = header("a.jpg", b"%011o" % 1) + b"x".ljust(512, b"\0")
    path.write_bytes(good + broken + bytes(10_240))
    with pytest.raises(DataError, match=r"x\.tar is truncated, damaged or not") as caught:
        load(path)
    assert complaint in str(caught.value)
    assert "last good member: a.jpg" in str(caught.value)


def test_a_size_below_0_in_a_pax_header_is_told(tmp_path: Path) -> None:
    path, stream = tmp_path / "x.tar", io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("b.jpg")
        entry.pax_headers = {"size": "-4096"}
        tar.addfile(entry)
    path.write_bytes(stream.getvalue())
    with pytest.raises(DataError, match=r"x\.tar .*b\.jpg has a size of -4,096 bytes"):
        load(path)


def test_a_name_without_end_is_told(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", {f"{'a' * 5_000}.jpg": b"x"})
    with pytest.raises(DataError, match=r"x\.tar holds a file whose name has 5,000 characters"):
        load(tmp_path / "x.tar")


def test_a_folder_that_is_called_a_tar_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.tar").mkdir()
    with pytest.raises(DataError, match=r"x\.tar cannot be read: Is a directory"):
        load(tmp_path / "x.tar")


def test_hard_links_are_the_files_they_lead_to_and_other_links_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.tar"
    (tmp_path / "a.jpg").write_bytes(b"picture")
    os.link(tmp_path / "a.jpg", tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to("a.jpg")
    os.mkfifo(tmp_path / "d.jpg")
    with tarfile.open(path, "w") as tar:
        for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
            tar.add(tmp_path / name, name)
    index = load(path)
    assert index.keys.tolist() == [b"a", b"b"]
    assert index.offsets[0, IMAGE] == index.offsets[1, IMAGE]
    assert index.sizes[:, IMAGE].tolist() == [7, 7]
    assert "2 links, devices or the like are left out, the first is c.jpg" in caplog.text


def test_a_tar_whose_promise_is_huge_takes_no_memory(tmp_path: Path) -> None:
    broken = header("L", b"\x80" + (1 << 40).to_bytes(11, "big"), b"L")
    tracemalloc.start()
    with pytest.raises(DataError, match="damaged"):
        scan_tar(io.BytesIO(broken + bytes(10_240)), "x.tar")
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
