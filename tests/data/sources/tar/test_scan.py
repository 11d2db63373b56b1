"""What a tar holds: nothing of it is lost silently, and damage is one sentence that names it."""

import os
import re
import tarfile
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.sources.tar.index import IMAGE, TarIndex, load_index
from coca.data.storage.storage import Storage
from tiny_datasets import FILES, make_tar


def load(path: Path) -> TarIndex:
    return load_index(str(path), Storage())


@pytest.mark.parametrize("cut", [0, 100, 600, 1100, 1536, 1700, 5000])
def test_a_truncated_tar_is_found_and_the_last_good_member_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.tar"
    content = make_tar(path, {"a.jpg": b"x" * 100, "b.jpg": b"y" * 3000})
    path.write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"x\.tar is truncated") as caught:
        load(path)
    assert caught.value.reason == "damaged_tar"
    # The header of the folder takes 512 bytes; a.jpg with its header ends at 1,536.
    assert ("a.jpg" if cut >= 1536 else "none") in str(caught.value)
    assert not (tmp_path / "x.tar.idx").exists()


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
def test_two_images_of_one_key_are_refused(tmp_path: Path, twin: str) -> None:
    make_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), (twin, b"3")])
    with pytest.raises(DataError, match="for the key a: ") as caught:
        load(tmp_path / "x.tar")
    assert caught.value.reason == "duplicate_key"


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = b"\xe9t\xe9.jpg".decode("utf-8", "surrogateescape")
    make_tar(tmp_path / "x.tar", {name: b"x"})
    for _ in range(2):
        (record,) = load(tmp_path / "x.tar").read([0])
        assert record.key.encode("utf-8", "surrogateescape") == b"\xe9t\xe9"


def header(name: str, size: bytes, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """A header of 512 bytes whose 12 bytes of size are given as they are."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[157:257] = link.ljust(100, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


# From Python 3.13.5 on, `tarfile` itself refuses a negative size, as a header that is not one.
REFUSED = "|no end mark at byte 1,024"
HUGE = b"\x80" + (1 << 80).to_bytes(11, "big")
BELOW_0 = b"\xff" + (-512).to_bytes(11, "big", signed=True)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (header("b.jpg", BELOW_0), f"b.jpg has a size of -512 bytes{REFUSED}"),
        (header("b", BELOW_0, b"?"), f"b has a size of -512 bytes{REFUSED}"),
        (header("b", BELOW_0, b"L"), f"a header has a size of{REFUSED}"),
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
    assert re.search(complaint, str(caught.value))
    assert "last good member: a.jpg" in str(caught.value)


def test_a_name_without_end_is_reported(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", {f"{'a' * 5_000}.jpg": b"x"})
    with pytest.raises(DataError, match=r"x\.tar contains a file whose name has 5,000 characters"):
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
    first, second = index.read([0, 1])
    assert (first.key, second.key) == ("a", "b")
    assert first.offsets[IMAGE] == second.offsets[IMAGE]
    assert first.sizes[IMAGE] == second.sizes[IMAGE] == 7
    assert "2 links, devices or the like are left out, the first is c.jpg" in caplog.text
