import io
from datetime import UTC, datetime

import pytest
from PIL import Image

from coca.search.ingest.sources.image_metadata import Header, read_header


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
        ("2024:05:31 18:30:00", "+02:00", datetime(2024, 5, 31, 16, 30, tzinfo=UTC)),
        ("2024:05:31 18:30:00", "", datetime(2024, 5, 31, 18, 30, tzinfo=UTC)),
        ("1969:12:31 23:00:00", "-01:00", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_the_time_is_that_of_the_camera(taken: str, zone: str, moment: datetime) -> None:
    assert read_header(photo(taken=taken, zone=zone)).time == moment.timestamp()


@pytest.mark.parametrize("taken", ["", "0000:00:00 00:00:00", "    :  :     :  :  ", "yesterday"])
def test_an_empty_time_is_0(taken: str) -> None:
    assert read_header(photo(taken=taken)) == Header(40, 30, 0)


@pytest.mark.parametrize("image", [b"", b"no image", photo()[:40]])
def test_what_is_no_image_has_no_size(image: bytes) -> None:
    assert read_header(image) == Header()
