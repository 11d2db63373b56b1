"""HEIF images by their first bytes, with and without the extra that reads them."""

import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coca.core.errors import DataError
from coca.core.files import formats
from coca.core.files.formats import IMAGE_FORMATS, formats_of, has_heif, is_heif
from coca.core.installation import pip_install
from coca.processing.image import decode
from coca.search.ingest.photo_metadata import read_header
from coca.search.ingest.sources import find_files


def head(major: bytes, *others: bytes) -> bytes:
    """The first bytes of a file in the ISO base media format."""
    size = 16 + 4 * len(others)
    return size.to_bytes(4, "big") + b"ftyp" + major + bytes(4) + b"".join(others) + b"\0\0meta"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (head(b"heic", b"mif1", b"heic"), True),
        (head(b"mif1", b"heic"), True),
        (head(b"hevc"), True),
        (head(b"avif", b"mif1", b"avif"), False),
        (head(b"mif1", b"avif", b"miaf"), False),
        (head(b"isom", b"mp42"), False),
        (b"\xff\xd8\xff\xe0", False),
        (b"", False),
        (b"\xff\xff\xff\xffftyp", False),
    ],
)
def test_heif_is_recognized_by_its_brands(content: bytes, expected: bool) -> None:
    assert is_heif(content) == expected
    if not expected:
        assert formats_of(content) == IMAGE_FORMATS


def test_without_the_extra_heif_images_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    formats.register_heif.cache_clear()
    for name in ("a.heic", "b.HEIF", "c.png"):
        (tmp_path / name).write_bytes(head(b"heic", b"mif1"))
    assert list(find_files([tmp_path])) == [str(tmp_path / "c.png")]
    assert f"2 HEIF images are left out; what reads them: {pip_install('heif')}" in caplog.text
    # One that is named is reported when it is read.
    assert list(find_files([tmp_path / "a.heic"])) == [str(tmp_path / "a.heic")]
    with pytest.raises(
        DataError, match=r"a\.heic is a HEIF image.*pip install .*\[heif\]"
    ) as raised:
        decode(tmp_path / "a.heic")
    assert raised.value.reason == "missing_extra"
    assert read_header(head(b"heic")).width == 0


@pytest.mark.skipif(not has_heif(), reason="the extra `heif` is not installed")
def test_heif_images_are_read_upright_with_size_and_time(tmp_path: Path) -> None:
    formats.register_heif.cache_clear()
    formats_of(head(b"heic"))
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32, 0] = 200
    exif = Image.Exif()
    exif[0x0132] = "2024:05:31 18:30:00"
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "HEIF", exif=exif.tobytes(), quality=90)
    path = tmp_path / "a.heic"
    path.write_bytes(stream.getvalue())
    assert is_heif(stream.getvalue()[: formats.HEAD_BYTES])
    assert list(find_files([tmp_path])) == [str(path)]
    header = read_header(stream.getvalue())
    assert (header.width, header.height, header.annotation.time) == (64, 48, 1717180200)
    decoded = decode(path)
    assert decoded.shape == (3, 48, 64)
    # A lossy format: within a few grey levels, away from the edge between the halves.
    error = np.abs(decoded.numpy().transpose(1, 2, 0).astype(int) - pixels)
    assert max(error[:, :24].max(), error[:, 40:].max()) <= 8
    with pytest.raises(DataError, match="too large"):
        decode(path, max_pixels=64 * 47)
