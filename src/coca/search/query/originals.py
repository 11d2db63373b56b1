"""Read the encoded image of a record again, from a path that still holds it."""

import errno
from collections.abc import Callable
from typing import TypeAlias

from coca.core.errors import DataError
from coca.core.regular_files import MAX_IMAGE_BYTES, read_regular
from coca.search.frame_paths import series_of
from coca.search.records import Record, content_id

OpenPicture: TypeAlias = Callable[[str, str], bytes]
"""Reads the encoded image of a path that had a stamp, or raises a `DataError`."""


def picture_of(record: Record, open_picture: OpenPicture) -> bytes:
    """The bytes of a record's image, from whichever path still holds them.

    Raises:
        DataError: None does; the reason is that of the leading one.
    """
    reasons = []
    for path in dict.fromkeys((record.path, *record.origin.files)):
        stamps = record.origin.files.get(path, "")
        try:
            image = open_picture(path, stamps)
        except DataError as error:
            reasons.append(str(error))
            continue
        # Of a video the stamp tells: another decoder may draw the same frame a little differently.
        if content_id(image) == record.id or series_of(path, stamps) != path:
            return image
        reasons.append(f"{path} holds another image now")
    raise DataError(reasons[0], reason="unreadable")


def read_file(path: str, stamp: str = "") -> bytes:
    """The bytes of an image file of this machine; its stamp is not looked at.

    Raises:
        DataError: It is missing, not readable or no regular file (reason `"unreadable"`), or larger
            than `MAX_IMAGE_BYTES` (reason `"too_large"`).
    """
    try:
        return read_regular(path, max_bytes=MAX_IMAGE_BYTES)
    except (OSError, ValueError) as error:
        large = isinstance(error, OSError) and error.errno == errno.EFBIG
        raise DataError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            reason="too_large" if large else "unreadable",
        ) from error
