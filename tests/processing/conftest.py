"""Images in memory, made from arithmetic so that every byte is known."""

import io
import struct
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Encode = Callable[..., bytes]

WITHOUT_TORCH = {
    *("test_caption_words.py", "test_class_words.py", "test_image_file.py", "test_large_images.py"),
    *("test_raw_photos.py", "test_text_reader.py", "test_tokenizer_file.py"),
    "test_word_constraint.py",
}
"""Tests that run where torch is not installed; the others are not collected there."""
collect_ignore = [
    path.name
    for path in Path(__file__).parent.glob("test_*.py")
    if path.name not in WITHOUT_TORCH and find_spec("torch") is None
]


@pytest.fixture
def scene() -> Image.Image:
    """37 x 53 pixels with slopes, edges and noise; no side divides JPEG's blocks."""
    y, x = np.mgrid[0:37, 0:53]
    slopes = np.stack([x * 4.8, y * 6.9, 128 + 90 * np.sin(x / 5) * np.cos(y / 7)], -1)
    slopes[10:20, 15:30] = (250, 20, 40)
    noise = np.random.default_rng(0).normal(0, 8, slopes.shape)
    return Image.fromarray((slopes + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture
def encode() -> Encode:
    """A PIL image to file content."""

    def to_bytes(image: Image.Image, form: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        image.save(stream, form, **options)
        return stream.getvalue()

    return to_bytes


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Rows of raw samples to a PNG of any depth, which Pillow itself cannot always write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    def to_bytes(rows: NDArray[Any], *, depth: int, color: int, size: tuple[int, int]) -> bytes:
        width, height = size
        header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
        body = b"".join(b"\0" + row.tobytes() for row in rows)
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(body))
            + chunk(b"IEND", b"")
        )

    return to_bytes
