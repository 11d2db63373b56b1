"""Images above 50 megapixels: reduced when they are decoded, and refused above a limit."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coca.core.errors import DataError
from coca.processing.image_file import MAX_SIDE_PX, read_image, size_of

SIZE = (8_400, 6_200)
"""52 megapixels: just above 50, since each copy in memory takes 0.2 GB."""
RED, BLUE = (200, 20, 30), (20, 30, 200)


def halves(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """An image whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def is_halves(image: Image.Image, *, error: int) -> bool:
    """Whether the left half is red and the right one blue, within an error in grey levels."""
    corners = np.asarray(image)[[0, -1], [0, -1]].astype(int)
    return bool(np.abs(corners - [RED, BLUE]).max() <= error)


def refusal(data: bytes, **options: int) -> str:
    with pytest.raises(DataError) as caught:
        read_image(data, **options)
    assert caught.value.reason == "too_large"
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {}), ("RGB", {"progressive": True}), ("CMYK", {}), ("RGB", {"keep_rgb": True})],
    ids=["sequential", "progressive", "cmyk", "rgb"],
)
def test_a_jpeg_of_any_kind_is_decoded_at_half_its_sides(
    mode: str, options: dict[str, Any]
) -> None:
    data = encoded(halves(mode), "JPEG", **options)
    image = read_image(data)
    assert image.size == (4_200, 3_100)
    assert is_halves(image, error=4)
    assert size_of(data) == SIZE


@pytest.mark.slow
def test_an_orientation_and_a_second_image_change_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    small = halves(size=(64, 48))
    data = encoded(halves(), "MPO", save_all=True, append_images=[small], exif=exif)
    image = read_image(data)
    assert (image.size, size_of(data)) == ((3_100, 4_200), SIZE[::-1])
    # The left half is above after the turn.
    assert is_halves(image, error=4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_a_png_is_reduced_to_the_means_of_its_pixels(mode: str) -> None:
    data = encoded(halves(mode), "PNG", compress_level=1)
    image = read_image(data)
    assert (image.size, image.mode) == ((4_200, 3_100), "RGB")
    # A palette has 6 values of each channel.
    assert is_halves(image, error=26 if mode == "P" else 0)


@pytest.mark.slow
def test_pixels_in_memory_are_reduced_as_those_of_files() -> None:
    image = halves()
    expected = image.reduce(2).tobytes()
    assert read_image(image).tobytes() == read_image(np.asarray(image)).tobytes() == expected


@pytest.mark.slow
def test_an_image_of_50_megapixels_has_all_its_pixels() -> None:
    image = halves(size=(10_000, 5_000))
    assert read_image(encoded(image, "PNG", compress_level=1)).tobytes() == image.tobytes()
    assert read_image(encoded(image, "JPEG")).size == (10_000, 5_000)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header gives a size, without pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", b""), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def jpeg_of(width: int, height: int, **options: object) -> bytes:
    """A JPEG whose header gives another size than it has."""
    data = bytearray(encoded(halves(size=(16, 16)), "JPEG", **options))
    at = data.index(b"\xff\xc2" if "progressive" in options else b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def test_the_limit_of_a_format_is_in_the_message() -> None:
    assert "20,000 x 20,000 pixels are 400 megapixels; the limit for PNG is 200" in refusal(
        png_of(20_000, 20_000)
    )
    assert "are 200.1 megapixels" in refusal(png_of(20_001, 10_000))
    assert "are 420 megapixels; the limit for JPEG is 400" in refusal(jpeg_of(21_000, 20_000))
    assert "the limit for progressive JPEG is 200" in refusal(
        jpeg_of(20_000, 15_000, progressive=True)
    )
    assert f"the limit of a side is {MAX_SIDE_PX:,}" in refusal(png_of(MAX_SIDE_PX + 1, 1))


def test_a_jpeg_with_a_scan_for_each_channel_has_the_limit_of_progressive_files() -> None:
    data = bytearray(jpeg_of(20_000, 15_000))
    at = data.index(b"\xff\xda")
    # The scan of the first channel: a length of 8, one channel, its tables, and the spectrum.
    data[at : at + 14] = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
    assert "progressive JPEG" in refusal(bytes(data))


def test_a_webp_above_the_limit_of_pillow_is_refused_without_its_message() -> None:
    canvas = struct.pack("<II", 0x10, 16_382)[:7] + struct.pack("<I", 16_382)[:3]
    data = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas
    message = refusal(data)
    assert "the limit for WebP" in message
    assert "bomb" not in message


def test_the_limit_counts_the_decoded_pixels() -> None:
    data = encoded(halves("L", (4_000, 3_000)), "JPEG")
    assert "the limit for JPEG is 1" in refusal(data, max_pixels=1_000_000)
    assert read_image(data, max_pixels=1_000_000, at_least=500).size == (1_000, 750)
