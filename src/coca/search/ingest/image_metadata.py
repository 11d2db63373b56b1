"""What the head of an image file tells without decoding it: its size, and when it was taken."""

import io
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime

from PIL import Image

from coca.core.heif import HEAD_BYTES, formats_of

_ORIENTATION, _TIMES, _CHANGED = 0x0112, 0x8769, 0x0132
_TAKEN, _TAKEN_ZONE = 0x9003, 0x9011


@dataclass(frozen=True)
class Header:
    """Size and time of an image."""

    width: int = 0
    """Of the upright image, pixels; 0 if it cannot be told."""
    height: int = 0
    """As `width`."""
    time: int = 0
    """When it was taken, seconds since 1970; 0 if it does not say. A camera's clock that names no
    zone counts as UTC, so that every machine tells the same."""


def read_header(image: bytes) -> Header:
    """The head of an encoded image; zeros where it is damaged, since the model will judge it."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(io.BytesIO(image), formats=formats_of(image[:HEAD_BYTES])) as picture:
                width, height = picture.size
                exif = picture.getexif()
                # From 5 on, the image lies on its side.
                if int(exif.get(_ORIENTATION, 1)) >= 5:
                    width, height = height, width
                times = exif.get_ifd(_TIMES)
                taken = times.get(_TAKEN) or exif.get(_CHANGED)
                return Header(width, height, _seconds(taken, times.get(_TAKEN_ZONE)))
    except Exception:
        # On damaged files Pillow's readers raise nearly anything.
        return Header()


def _seconds(taken: object, zone: object) -> int:
    """Such as `2024:05:31 18:30:00` and `+02:00`."""
    try:
        local = datetime.strptime(str(taken).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        named = datetime.strptime(str(zone), "%z").tzinfo if zone else UTC
    except ValueError:
        return 0
    return int(local.replace(tzinfo=named).timestamp())
