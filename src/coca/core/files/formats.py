"""Supported image and video formats, by file suffix and by content.

HEIF needs the extra `heif`, and raw photos need the extra `raw`.
"""

import functools
import importlib.util
from typing import Literal

from coca.core.extras import require

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

RAW_SUFFIXES = frozenset({".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"})

PHOTO_SUFFIXES = IMAGE_SUFFIXES | HEIF_SUFFIXES | RAW_SUFFIXES
"""Suffixes of images in photo folders; datasets have those of `IMAGE_SUFFIXES`."""

HEAD_BYTES = 1_024
"""Number of leading bytes that identify the format of an image."""

_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})


def has_heif() -> bool:
    """Return whether the extra `heif` is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


_SIGNATURES = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (8, b"WEBP", "image/webp"),
    (0, b"GIF8", "image/gif"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (4, b"ftypavi", "image/avif"),
)


def is_heif(head: bytes) -> bool:
    """Return whether a file is a HEIF image (ISO/IEC 23008-12) and not AVIF."""
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), HEAD_BYTES)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    return not brands & _AVIF_BRANDS and bool(brands & _BRANDS)


def media_type_of(data: bytes) -> str:
    """Return the media type of an encoded image by its first bytes."""
    for start, signature, media_type in _SIGNATURES:
        if data.startswith(signature, start):
            return media_type
    if is_heif(data[:HEAD_BYTES]):
        return "image/heic"
    return "application/octet-stream"


# Raw photos of cameras, with the extra `raw`.

_RAW_HEADS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
"""First bytes of RAF, ORF and RW2."""
_SUBFILE_TYPE, _PHOTOMETRIC, _MAKER, _SUB_IFDS, _DNG_VERSION = 254, 262, 271, 330, 50_706
_COLOR_FILTER_ARRAY = 32_803


def has_raw() -> bool:
    """Return whether the extra `raw` is installed."""
    return importlib.util.find_spec("rawpy") is not None


def is_raw(head: bytes) -> bool:
    """Return whether a file is a raw photo, and no TIFF, by its first `HEAD_BYTES` bytes.

    Most raw photos are TIFF files: DNG has its version, and others begin with a reduced image of a
    camera that refers to the raw one.
    """
    if head.startswith(_RAW_HEADS) or head[4:12] == b"ftypcrx ":
        return True
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    if head[:4] not in (b"II*\0", b"MM\0*"):
        return False
    at = int.from_bytes(head[4:8], order)
    count = int.from_bytes(head[at : at + 2], order)
    tags = {}
    for entry in range(at + 2, min(at + 2 + 12 * count, len(head) - 11), 12):
        size = 2 if head[entry + 2 : entry + 4] == (3).to_bytes(2, order) else 4
        value = head[entry + 8 : entry + 8 + size]
        tags[int.from_bytes(head[entry : entry + 2], order)] = int.from_bytes(value, order)
    return (
        _DNG_VERSION in tags
        or tags.get(_PHOTOMETRIC) == _COLOR_FILTER_ARRAY
        or (tags.get(_SUBFILE_TYPE) == 1 and {_MAKER, _SUB_IFDS} <= tags.keys())
        or head[8:10] == b"CR"
    )


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
