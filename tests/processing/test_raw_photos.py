"""Raw photos by their first bytes, and their previews, with and without the extra."""

import importlib.util
import io
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from coca.core.errors import DataError
from coca.core.files.formats import HEAD_BYTES, is_raw
from coca.core.installation import pip_install
from coca.processing.image_file import read_image
from coca.search.ingest.photo_metadata import read_header
from coca.search.ingest.sources import find_files
from raw_photo import PREVIEW, raw_photo

XMP = b"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><rdf:Description><dc:subject>sea</dc:subject>
</rdf:Description></rdf:RDF>"""


def tiff(**tags: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3)).save(stream, "TIFF", **tags)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (raw_photo(), True),
        (b"II*\0\x10\0\0\0CR\2\0", True),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", True),
        (b"FUJIFILMCCD-RAW 0201", True),
        (b"IIRO\x08\0\0\0", True),
        (b"IIU\0\x18\0\0\0", True),
        (tiff(), False),
        (tiff(compression="tiff_lzw", description="a"), False),
        (b"II*\0\xff\xff\xff\xff", False),
        (b"MM\0*", False),
        (b"\xff\xd8\xff\xe0", False),
        (b"", False),
    ],
)
def test_raw_photos_are_recognized_by_their_first_bytes(content: bytes, expected: bool) -> None:
    assert is_raw(content[:HEAD_BYTES]) == expected


@pytest.mark.parametrize(
    ("orientation", "red"),
    [(1, (0.25, 0.5)), (3, (0.75, 0.5)), (6, (0.5, 0.25)), (8, (0.5, 0.75))],
)
def test_the_preview_is_read_upright_with_what_the_camera_wrote(
    orientation: int, red: tuple[float, float]
) -> None:
    pytest.importorskip("rawpy", reason="the extra raw is not installed")
    data = raw_photo(orientation, xmp=XMP)
    image, header = read_image(data), read_header(data)
    assert image.size == (header.width, header.height)
    assert image.size == (PREVIEW if orientation < 5 else PREVIEW[::-1])
    x, y = (int(part * side) for part, side in zip(red, image.size, strict=True))
    pixels = np.asarray(image)
    assert pixels[y, x].argmax() == 0
    assert pixels[-1 - y, -1 - x].argmax() == 2
    assert max(read_image(data, at_least=100).size) < 400
    assert header.annotation.time == 1717180200
    metadata = {"camera": "NIKON Z 6", "orientation": orientation}
    assert (header.annotation.metadata, header.annotation.tags) == (metadata, ("sea",))


def test_the_exif_of_a_raw_photo_turns_a_preview_that_libraw_does_not_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rawpy = pytest.importorskip("rawpy", reason="the extra raw is not installed")
    preview = io.BytesIO()
    Image.new("RGB", PREVIEW).save(preview, "JPEG")
    thumb = SimpleNamespace(format=rawpy.ThumbFormat.JPEG, data=preview.getvalue())
    # So does LibRaw with a NEF of a Nikon D70 whose orientation exiftool set in all directories.
    photo = SimpleNamespace(sizes=SimpleNamespace(flip=0), extract_thumb=lambda: thumb)
    monkeypatch.setattr(rawpy, "imread", lambda stream: nullcontext(photo))
    data = raw_photo(6)
    image, header = read_image(data), read_header(data)
    assert image.size == (header.width, header.height) == PREVIEW[::-1]
    assert read_image(raw_photo(1)).size == PREVIEW


def test_a_raw_photo_without_a_preview_is_an_error() -> None:
    pytest.importorskip("rawpy", reason="the extra raw is not installed")
    with pytest.raises(DataError, match="whose preview cannot be read") as raised:
        read_image(raw_photo(preview=False))
    assert raised.value.reason == "unsupported"
    assert read_header(raw_photo(preview=False)).width == 0
    with pytest.raises(DataError):
        read_image(raw_photo()[:600])


def test_without_the_extra_raw_photos_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("a.NEF", "b.dng", "c.CR2", "c.JPG"):
        (tmp_path / name).write_bytes(raw_photo())
    assert list(find_files([tmp_path])) == [str(tmp_path / "c.JPG")]
    assert f"2 raw photos are left out; what reads them: {pip_install('raw')}" in caplog.text
    # One that is named is reported when it is read.
    assert list(find_files([tmp_path / "b.dng"])) == [str(tmp_path / "b.dng")]
    with pytest.raises(DataError, match=r"b\.dng is a raw photo.*pip install .*\[raw\]") as raised:
        read_image(tmp_path / "b.dng")
    assert raised.value.reason == "missing_extra"
