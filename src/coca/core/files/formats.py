"""Supported image and video formats, by file suffix and by content; HEIF with the extra `heif`."""

import functools
import importlib.util

from coca.core.extras import require

# Supported image and video formats, by file suffix and by content.


IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Supported formats by their Pillow names. Others are disabled to reduce the attack surface."""

IMAGE_FORMATS_SHOWN = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
"""The supported formats in messages."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv"}
    | {".ogv", ".wmv"}
)


# HEIF support (HEIC photos of phones), with the extra `heif`.


HEIF_SUFFIXES = frozenset({".heic", ".heif"})

PHOTO_SUFFIXES = IMAGE_SUFFIXES | HEIF_SUFFIXES
"""Suffixes of images in photo folders; datasets have those of `IMAGE_SUFFIXES`."""

HEAD_BYTES = 256
"""Number of leading bytes that identify the format of an image."""

_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})


def has_heif() -> bool:
    """Return whether the extra `heif` is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def is_heif(head: bytes) -> bool:
    """Return whether a file is a HEIF image (ISO/IEC 23008-12) and not AVIF."""
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), HEAD_BYTES)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    return not brands & _AVIF_BRANDS and bool(brands & _BRANDS)


def formats_of(head: bytes) -> tuple[str, ...]:
    """Return the Pillow names of the formats that a file may have, by its first bytes."""
    if not is_heif(head):
        return IMAGE_FORMATS
    register_heif()
    return ("HEIF",)


@functools.cache
def register_heif() -> None:
    """Register the HEIF decoder with Pillow."""
    require("pillow_heif", extra="heif").register_heif_opener(thumbnails=False)
