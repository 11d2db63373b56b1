"""A small DNG as cameras write it: sensor values of black, and a JPEG preview."""

import io
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

PREVIEW = (640, 426)
"""Width and height of the preview, whose left half is red and whose right half is blue."""
_SIDE = 32
_HEADER = b"II*\0" + struct.pack("<I", 8)


def raw_photo(orientation: int = 1, *, xmp: bytes = b"", preview: bool = True) -> bytes:
    """Write a DNG, with or without a preview."""
    image = Image.new("RGB", PREVIEW, "blue")
    image.paste("red", (0, 0, PREVIEW[0] // 2, PREVIEW[1]))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    jpeg, sensor = stream.getvalue() if preview else b"", bytes(2 * _SIDE * _SIDE)
    # Pillow counts places from the end of a directory.
    small = _directory(
        {254: 1, 256: PREVIEW[0], 257: PREVIEW[1], 258: (8, 8, 8), 259: 7, 262: 6}
        | {273: len(sensor), 277: 3, 278: PREVIEW[1], 279: len(jpeg)}
    )
    first = _directory(
        {254: 0, 256: _SIDE, 257: _SIDE, 258: 16, 259: 1, 262: 32_803, 271: "NIKON CORPORATION"}
        | {272: "NIKON Z 6", 273: len(small.tobytes()), 274: orientation, 277: 1, 278: _SIDE}
        | {279: len(sensor), 306: "2024:05:31 18:30:00", 33_421: (2, 2)}
        | {33_422: b"\0\1\1\2", 50_706: b"\1\4\0\0"}
        | ({330: 0} if preview else {})
        | ({700: xmp} if xmp else {})
    )
    end = len(_HEADER) + len(first.tobytes())
    if preview:
        first[330] = end
    return _HEADER + first.tobytes(len(_HEADER)) + small.tobytes(end) + sensor + jpeg


def _directory(tags: Mapping[int, Any]) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2()
    for tag, value in tags.items():
        # Unsigned longs, but for texts, bytes and short lists.
        kinds = {str: 2, bytes: 1, tuple: 3, int: 4}
        directory.tagtype[tag] = 3 if tag == 274 else kinds[type(value)]
        directory[tag] = value
    return directory
