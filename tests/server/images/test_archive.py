"""Streamed archives, read by zipfile itself."""

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest

from coca.server.images.archive import ArchivedFile, stream_zip

DAY = int(datetime(2013, 6, 15, 10, 30, 4, tzinfo=UTC).timestamp())


def test_files_have_their_bytes_names_and_dates(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"video" * 500_000)
    files = [
        ArchivedFile("a.png", b"one", DAY),
        ArchivedFile("A.png", b"two"),
        ArchivedFile("../b/c\n.png", b"", -(10**12)),
        ArchivedFile("clip.mp4", video, 10**12),
    ]
    with ZipFile(BytesIO(b"".join(stream_zip(files)))) as archive:
        assert archive.testzip() is None
        names = ["a.png", "A (2).png", "_b_c_.png", "clip.mp4"]
        assert archive.namelist() == names
        assert [archive.read(name) for name in names] == [b"one", b"two", b"", video.read_bytes()]
        dates = [info.date_time for info in archive.infolist()]
    first, last = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 0, 0, 0)
    assert dates == [(2013, 6, 15, 10, 30, 4), first, first, last]


def test_a_file_is_read_when_the_one_before_it_was_taken(tmp_path: Path) -> None:
    opened = []

    def files() -> object:
        for name in ("a", "b", "c"):
            opened.append(name)
            yield ArchivedFile(name, name.encode())

    stream = stream_zip(files())  # type: ignore[arg-type]
    assert next(stream)
    assert opened == ["a"]
    assert b"".join(stream)
    assert opened == ["a", "b", "c"]


@pytest.mark.slow
def test_an_archive_above_4_gb_can_be_read(tmp_path: Path) -> None:
    large, copy = tmp_path / "large.mp4", tmp_path / "copy.zip"
    size = (1 << 32) + 5
    with large.open("wb") as file:
        file.truncate(size)
        file.seek(-3, 2)
        file.write(b"end")
    files = [ArchivedFile("large.mp4", large, DAY), ArchivedFile("small.png", b"small", DAY)]
    with copy.open("wb") as target:
        for chunk in stream_zip(files):
            # The zeros take no place on the disk.
            if chunk.count(0) == len(chunk):
                target.seek(len(chunk), 1)
            else:
                target.write(chunk)
    with ZipFile(copy) as archive:
        large_info, small_info = archive.infolist()
        assert (large_info.file_size, small_info.file_size) == (size, 5)
        assert small_info.header_offset > 1 << 32
        assert archive.read("small.png") == b"small"
