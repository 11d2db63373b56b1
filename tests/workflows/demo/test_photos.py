"""The photos in the package: credits, files, and the choice among the photos of their source."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coca.core.annotations import read_sidecars
from coca.workflows.demo.run import CREDITS, LICENCE, read_table, write_photos
from demo_photos import LEFT_OUT, choose


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "photos"
    write_photos(folder)
    return folder


def test_every_photo_has_an_author_and_a_page_and_opens(folder: Path) -> None:
    photos = read_table()
    assert 380 <= len(photos) == len({photo.name for photo in photos}) <= 420
    for photo in photos:
        assert photo.author.strip()
        for link in (photo.author_url, photo.page):
            assert re.fullmatch(r"https://www\.flickr\.com/(photos|people)/[^/]+/\d*", link)
        with Image.open(folder / photo.name) as image:
            image.load()
            assert image.size == (299, 299)


def test_written_photos_have_credits_and_no_caption(folder: Path) -> None:
    page = (folder / CREDITS).read_text(encoding="utf-8")
    for photo in read_table():
        sidecars = read_sidecars(folder / photo.name)
        assert sidecars.captions == ()
        assert sidecars.fields["author"] == photo.author
        assert sidecars.fields["page"] == photo.page
        assert sidecars.fields["license"] == LICENCE
        assert photo.page in page


def test_photos_are_written_once(folder: Path) -> None:
    files = sorted(folder.iterdir())
    before = [path.stat().st_mtime_ns for path in files]
    assert [path for path, _ in write_photos(folder)] == sorted(folder.glob("*.webp"))
    assert [path.stat().st_mtime_ns for path in files] == before


def test_other_photos_in_the_folder_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "chelsea.png").write_bytes(b"of an earlier version")
    written = write_photos(folder)
    assert not (folder / "chelsea.png").exists()
    assert all(path.exists() for path, _ in written)


def rows() -> list[dict[str, Any]]:
    """Five photos of each of ten classes, of one class that is left out, and of another licence."""
    names = [f"class {number}" for number in range(10)]
    return [
        {"image": f"images/{name}-{number}.webp", "class_names": [name], "license": licence}
        for name, licence in [
            *((name, LICENCE) for name in (*names, min(LEFT_OUT))),
            ("not free", "all rights reserved"),
        ]
        for number in range(5)
    ]


@pytest.mark.parametrize(("count", "most"), [(7, 1), (10, 1), (14, 2), (99, 2)])
def test_second_photos_of_a_class_come_after_the_first_of_all(count: int, most: int) -> None:
    chosen = choose(rows(), count)
    classes = Counter(row["class_names"][0] for row in chosen)
    assert sum(classes.values()) == min(count, 20)
    assert len(classes) == min(count, 10)
    assert max(classes.values()) == most
    assert not {min(LEFT_OUT), "not free"} & set(classes)
