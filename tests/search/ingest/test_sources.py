import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from coca.core.errors import DataError
from coca.search.ingest.photo_metadata import Annotation, Header, read_header
from coca.search.ingest.sources import find_files, read_annotation


def test_images_are_found_in_all_folders_sorted_and_once(tmp_path: Path) -> None:
    names = [
        "b.JPG",
        "a/z.png",
        "a/b/c.webp",
        "a.jpeg",
        "note.txt",
        "a.json",
        "._a.jpg",
        ".t/x.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path, tmp_path / "a", tmp_path / "b.JPG"])
    expected = ["a/b/c.webp", "a/z.png", "a.jpeg", "b.JPG"]
    assert list(found) == sorted(str(tmp_path / name) for name in expected)


def test_a_file_that_is_named_is_read_with_any_suffix(tmp_path: Path) -> None:
    (tmp_path / "picture").touch()
    assert list(find_files([tmp_path / "picture"])) == [str(tmp_path / "picture")]


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent does not exist"):
        find_files([tmp_path / "absent"])


def test_the_first_caption_is_the_caption_and_several_are_metadata(tmp_path: Path) -> None:
    sidecar = {"caption": "c", "tags": "x, y", "album": "2024", "time": 7, "n": 1}
    (tmp_path / "a.json").write_text(json.dumps(sidecar))
    (tmp_path / "b.txt").write_text("a\nb")
    assert read_annotation(tmp_path / "a.jpg") == Annotation("c", {"n": 1}, ("x", "y"), "2024", 7)
    assert read_annotation(tmp_path / "b.jpg") == Annotation("a", {"captions": ["a", "b"]})
    assert read_annotation(tmp_path / "c.jpg") == Annotation()


def photo(*, orientation: int = 1, taken: str = "", zone: str = "", form: str = "JPEG") -> bytes:
    image, stream = Image.new("RGB", (40, 30)), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = orientation
    times = exif.get_ifd(0x8769)
    if taken:
        times[0x9003] = taken
    if zone:
        times[0x9011] = zone
    image.save(stream, form, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 30)), (3, (40, 30)), (6, (30, 40))])
def test_the_size_is_that_of_the_upright_image(
    form: str, orientation: int, size: tuple[int, int]
) -> None:
    header = read_header(photo(orientation=orientation, form=form))
    assert (header.width, header.height) == size


@pytest.mark.parametrize(
    ("taken", "zone", "moment"),
    [
        ("2024:05:31 18:30:00", "+02:00", datetime(2024, 5, 31, 18, 30, tzinfo=UTC)),
        ("2024:05:31 18:30:00", "", datetime(2024, 5, 31, 18, 30, tzinfo=UTC)),
        ("1969:12:31 23:00:00", "-01:00", datetime(1969, 12, 31, 23, tzinfo=UTC)),
    ],
)
def test_the_time_is_that_of_the_clock_of_the_camera(
    taken: str, zone: str, moment: datetime
) -> None:
    assert read_header(photo(taken=taken, zone=zone)).annotation.time == moment.timestamp()


@pytest.mark.parametrize("taken", ["", "0000:00:00 00:00:00", "    :  :     :  :  ", "yesterday"])
def test_an_empty_time_is_0(taken: str) -> None:
    header = read_header(photo(taken=taken))
    assert (header.width, header.height, header.annotation.time) == (40, 30, 0)


@pytest.mark.parametrize("image", [b"", b"no image", photo()[:40]])
def test_what_is_no_image_has_no_size(image: bytes) -> None:
    assert read_header(image) == Header()
