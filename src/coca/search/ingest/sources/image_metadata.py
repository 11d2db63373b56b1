"""Image metadata from the file header, without decoding: size and capture time."""

import io
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime

from PIL import Image

from coca.core.files.heif import HEAD_BYTES, formats_of

_ORIENTATION, _TIMES, _CHANGED = 0x0112, 0x8769, 0x0132
_TAKEN, _TAKEN_ZONE = 0x9003, 0x9011


@dataclass(frozen=True)
class Header:
    """Size and capture time of an image."""

    width: int = 0
    """Width of the upright image, in pixels; 0 if unknown."""
    height: int = 0
    """Height, as `width`."""
    time: int = 0
    """Time of capture, in seconds since 1970; 0 if unknown. A time without a zone counts as UTC, so
    that the result is the same on every machine."""


def read_header(image: bytes) -> Header:
    """Read the header of an encoded image; zeros if damaged, as the model reports the error."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(io.BytesIO(image), formats=formats_of(image[:HEAD_BYTES])) as opened:
                width, height = opened.size
                exif = opened.getexif()
                # From 5 on, the image is rotated by 90 degrees.
                if int(exif.get(_ORIENTATION, 1)) >= 5:
                    width, height = height, width
                times = exif.get_ifd(_TIMES)
                taken = times.get(_TAKEN) or exif.get(_CHANGED)
                return Header(width, height, _seconds(taken, times.get(_TAKEN_ZONE)))
    except Exception:
        # On damaged files Pillow's readers raise nearly anything.
        return Header()


def _seconds(taken: object, zone: object) -> int:
    """Parse an Exif time such as `2024:05:31 18:30:00` and a zone such as `+02:00`."""
    try:
        local = datetime.strptime(str(taken).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        named = datetime.strptime(str(zone), "%z").tzinfo if zone else UTC
    except ValueError:
        return 0
    return int(local.replace(tzinfo=named).timestamp())
