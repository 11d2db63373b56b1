"""Exif of photos and of raw photos: tags as checked values, and what they say together.

All files are untrusted: what is damaged is left out, texts are cut, and no reader raises.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

from PIL import Image

# Values of metadata, converted and checked.

MAX_TEXT_BYTES = 1_024
"""Maximum length of a text but captions, in bytes of UTF-8."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]+")
"""Characters that no text has, and that XML cannot contain."""

_RANGES: Mapping[str, tuple[type, float, float]] = {
    "rating": (int, -1, 5),
    "exposure_s": (float, 1e-6, 1e6),
    "f_number": (float, 0.1, 1e3),
    "focal_length": (float, 0.1, 1e5),
    "iso": (int, 1, 1e8),
    "flash": (int, 0, 255),
    "orientation": (int, 1, 8),
    "latitude": (float, -90, 90),
    "longitude": (float, -180, 180),
    "altitude": (float, -12_000, 1e6),
}
"""Type, least and most of each number; others are damaged, or mean that it is unknown."""


def number_of(name: str, value: Any) -> Any:
    """Return a number in the range of a field of `PhotoMetadata`; None if it is none."""
    kind, least, most = _RANGES[name]
    number = _float(value[0] if isinstance(value, list | tuple) and value else value)
    if number is None or not least <= number <= most:
        return None
    return round(number) if kind is int else float(f"{number:.9g}")


def _float(value: Any) -> float | None:
    """Convert a number, or text such as `1/250`; None if it is none, or not finite."""
    try:
        over, _, under = value.partition("/") if isinstance(value, str) else (value, "", "")
        number = float(over) / float(under or 1)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None


def texts_of(values: Iterable[Any]) -> list[str]:
    """Decode texts, without empty ones."""
    return list(filter(None, (text_of(value) for value in values)))


def text_of(value: Any, most: int = MAX_TEXT_BYTES) -> str:
    """Decode a text, without the control characters and spaces around it, at most `most` bytes."""
    if isinstance(value, str):
        # Pillow decodes Exif as Latin-1, and most programs write UTF-8.
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return clean(value, most)
    if not isinstance(value, bytes):
        return ""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return clean(text, most)


def clean(text: str, most: int = MAX_TEXT_BYTES) -> str:
    """Remove control characters and the spaces around a text; cut it after `most` bytes."""
    return cut(_CONTROL.sub(" ", text).strip(), most)


def cut(text: str, most: int) -> str:
    """Cut a text after at most `most` bytes of UTF-8."""
    return text.encode()[:most].decode("utf-8", "ignore").strip()


# Exif: what the camera wrote.

_CAMERA_IFD, _GPS_IFD = 0x8769, 0x8825


class Exif:
    """Values of Exif tags, converted and checked; None where they are missing or damaged."""

    def __init__(self, exif: Image.Exif | None = None) -> None:
        """Take the tags of an image; none by default."""
        self._ifds: list[Mapping[int, Any]] = []
        self.gps: Mapping[int, Any] = {}
        # On damaged files Pillow's readers raise nearly anything.
        if exif is not None:
            with suppress(Exception):
                self._ifds.append(exif)
                self._ifds.append(exif.get_ifd(_CAMERA_IFD))
            with suppress(Exception):
                self.gps = exif.get_ifd(_GPS_IFD)

    def value(self, tag: int) -> Any:
        """Return the value of a tag as Pillow reads it."""
        return next((ifd[tag] for ifd in self._ifds if tag in ifd), None)

    def text(self, tag: int) -> str:
        """Return a text; empty if there is none."""
        return text_of(self.value(tag))

    def number(self, name: str, tag: int) -> Any:
        """Return a number in the range of a field of `PhotoMetadata`."""
        return number_of(name, self.value(tag))

    def __bool__(self) -> bool:
        return any(self._ifds)


def place_of(gps: Mapping[int, Any]) -> dict[str, float]:
    """Read latitude, longitude and altitude; 0, 0 is what devices without a fix write."""
    found = {}
    for name, tag, negative in (("latitude", 1, "S"), ("longitude", 3, "W")):
        parts = gps.get(tag + 1)
        if not isinstance(parts, Sequence) or isinstance(parts, str | bytes) or not parts:
            return {}
        degrees = [_float(part) for part in parts[:3]]
        if None in degrees:
            return {}
        value = sum(part / 60**power for power, part in enumerate(degrees) if part is not None)
        value = number_of(name, -value if text_of(gps.get(tag)).upper() == negative else value)
        if value is None:
            return {}
        found[name] = value
    if not any(found.values()):
        return {}
    altitude = number_of("altitude", gps.get(6))
    if altitude is not None:
        below = gps.get(5) in (1, b"\x01", "\x01")
        found["altitude"] = -altitude if below else altitude
    return found


def camera_of(maker: str, model: str) -> str:
    """Join maker and model; most models begin with the maker's name."""
    first = maker.split(" ")[0]
    return model if not maker or model.lower().startswith(first.lower()) else f"{first} {model}"


def moment_of(exif: Exif) -> tuple[datetime, tzinfo | None] | None:
    """Read the time of capture, with its zone if the camera or the satellites give it."""
    for tag, zone_tag in ((0x9003, 0x9011), (0x9004, 0x9012), (0x0132, 0x9010)):
        try:
            local = datetime.strptime(exif.text(tag), "%Y:%m:%d %H:%M:%S")
        except ValueError:
            continue
        try:
            return local, datetime.strptime(exif.text(zone_tag), "%z").tzinfo
        except ValueError:
            return local, _zone_of(local, exif.gps)
    return None


_ZONE_STEP, _MOST_FIX_AGE = timedelta(minutes=15), timedelta(minutes=2)


def _zone_of(local: datetime, gps: Mapping[int, Any]) -> tzinfo | None:
    """Compare the clock of the camera with the time of the satellites, which is UTC."""
    try:
        day = datetime.strptime(text_of(gps.get(29)), "%Y:%m:%d")
        hours, minutes, seconds = (float(part) for part in gps[7])
        apart = local - day - timedelta(hours=hours, minutes=minutes, seconds=seconds)
        offset = round(apart / _ZONE_STEP) * _ZONE_STEP
        is_zone = timedelta(hours=-12) <= offset <= timedelta(hours=14)
        return timezone(offset) if is_zone and abs(apart - offset) <= _MOST_FIX_AGE else None
    except (ValueError, TypeError, KeyError, ArithmeticError):
        return None
