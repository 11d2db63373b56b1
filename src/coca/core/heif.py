"""HEIF images (HEIC, as telephones write them), which the extra `heif` reads."""

import functools
import importlib.util

from coca.core.extras import require
from coca.core.formats import IMAGE_FORMATS, IMAGE_SUFFIXES

HEIF_SUFFIXES = frozenset({".heic", ".heif"})

PHOTO_SUFFIXES = IMAGE_SUFFIXES | HEIF_SUFFIXES
"""Of images in folders of photos; data sets hold those of `IMAGE_SUFFIXES`."""

HEAD_BYTES = 256
"""So many first bytes tell the format of an image."""

_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})


def has_heif() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is a HEIF image (ISO/IEC 23008-12), and not an AVIF one.

    Args:
        head: Its first `HEAD_BYTES`.
    """
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), HEAD_BYTES)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    return not brands & _AVIF_BRANDS and bool(brands & _BRANDS)


def formats_of(head: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats that a file that begins so may have.

    Args:
        head: Its first `HEAD_BYTES`.

    Raises:
        MissingExtraError: It is a HEIF image, and the extra `heif` is not installed.
    """
    if not is_heif(head):
        return IMAGE_FORMATS
    _register()
    return ("HEIF",)


@functools.cache
def _register() -> None:
    require("pillow_heif", extra="heif").register_heif_opener(thumbnails=False)
