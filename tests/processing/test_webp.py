"""Plain WebP files have the pixels that Pillow sees; all others are left to it."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coca.core.errors import DataError
from coca.processing.image import decode, decode_plain_webp, expect_many

PLENTY = 50_000_000
expect_many()


def encoded(width: int, height: int, *, channels: int = 3, **options: Any) -> bytes:
    """A smooth image with noise, as WebP."""
    random = np.random.default_rng(width * height)
    small = random.integers(0, 256, (4, 4, channels), np.uint8)
    image = Image.fromarray(small.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "WEBP", **options)
    return stream.getvalue()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 5), (144, 144), (33, 200)])
@pytest.mark.parametrize("quality", [10, 80, 100])
def test_pixels_are_those_of_pillow(width: int, height: int, quality: int) -> None:
    content = encoded(width, height, quality=quality)
    with Image.open(io.BytesIO(content)) as image:
        wanted = np.array(image.convert("RGB"))
    found = decode_plain_webp(content, max_pixels=PLENTY)
    assert found is not None
    assert torch.equal(found.permute(1, 2, 0), torch.from_numpy(wanted))
    assert torch.equal(decode(content), found)


@pytest.mark.parametrize(
    "content",
    [
        encoded(8, 8, lossless=True),
        encoded(8, 8, channels=4),
        encoded(8, 8, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
        encoded(40, 40)[:100],
        encoded(40, 40)[:20],
        b"",
        b"no image at all, but longer than a header",
    ],
    ids=["lossless", "transparent", "metadata", "truncated", "header only", "empty", "text"],
)
def test_what_is_not_plain_is_left_to_pillow(content: bytes) -> None:
    assert decode_plain_webp(content, max_pixels=PLENTY) is None


def test_too_many_pixels_are_known_before_they_are_decoded() -> None:
    content = encoded(40, 30)
    assert decode_plain_webp(content, max_pixels=1199) is None
    assert decode_plain_webp(content, max_pixels=1200) is not None
    with pytest.raises(DataError, match="40 x 30 pixels") as it:
        decode(content, max_pixels=1199)
    assert it.value.reason == "too_large"


@pytest.mark.parametrize("kind", ["WEBP", "JPEG"])
def test_without_torchvision_s_decoders_pillow_reads_the_same(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(encoded(40, 30))) as image:
        image.save(stream, kind)
    sooner = decode(stream.getvalue())
    monkeypatch.delattr("torchvision.io.decode_webp")
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    assert torch.equal(decode(stream.getvalue()), sooner)
