from pathlib import Path

import pytest

from coca.workflows.collections.image_sources import SourceUri
from coca.workflows.collections.skipped_files import (
    LINK,
    describe_skipped,
    skipped_files,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    read = ["a.jpg", "a.txt", "a.json", "b.HEIC", "b.mp4", "top.tar", "top.tar.idx"]
    read += ["a.xmp", "a.NEF", "a.CRW", "b.HEIC.xmp", "b.dng", "e.nef"]
    skipped = ["c.CRW", "deep/d.crw", "deep/e.zip", "deep/f.tar", "notes", "g.csv", "h.psd"]
    hidden = [".trash.zip", ".git/i.zip", "coca.db", "coca.db-wal"]
    for name in read + skipped + hidden:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "linked").mkdir()
    (folder / "link").symlink_to(tmp_path / "linked")
    return folder


def test_skipped_files_of_a_folder_are_counted_by_suffix(folder: Path) -> None:
    counts = {"": 1, ".crw": 2, ".csv": 1, ".psd": 1, ".tar": 1, ".zip": 1, LINK: 1}
    assert skipped_files([SourceUri(str(folder), "folder")]) == counts
    overlapping = [SourceUri(str(folder / "deep"), "folder"), SourceUri(str(folder), "folder")]
    # The tar is now at the top of a folder that was passed.
    assert skipped_files(overlapping) == {one: n for one, n in counts.items() if one != ".tar"}


def test_what_is_passed_by_name_is_not_skipped(folder: Path) -> None:
    uris: list[SourceUri] = [
        SourceUri(str(folder), "folder"),
        SourceUri(str(folder / "deep" / "e.zip"), "zip"),
        SourceUri(str(folder.parent / "linked"), "folder"),
        SourceUri(str(folder / "h.psd"), "image"),
    ]
    assert skipped_files(uris) == {"": 1, ".csv": 1, ".crw": 2, ".tar": 1}


def test_each_kind_is_one_sentence_with_its_remedy() -> None:
    counts = {".pef": 2_000, ".crw": 1, ".zip": 3, "": 1, ".doc": 2}
    assert describe_skipped(counts) == [
        "skipped 2,000 .pef, 1 .crw: raw photos: index JPEG copies of them",
        "skipped 3 .zip: zips: pass those with a table by name, and unpack the others",
        "skipped 2 .doc, 1 without suffix: no images, videos or tars",
    ]


def test_many_suffixes_are_summed_up() -> None:
    (sentence,) = describe_skipped({f".{n}": 10 - n for n in range(9)})
    assert sentence == (
        "skipped 10 .0, 9 .1, 8 .2, 7 .3, 6 .4, 5 .5, 9 others: no images, videos or tars"
    )
