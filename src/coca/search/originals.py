"""Read the encoded image of a record again, from a path that still holds it."""

from collections.abc import Callable
from typing import TypeAlias

from coca.core.errors import DataError
from coca.search.records import Record, content_id
from coca.search.sources import series_of

OpenPicture: TypeAlias = Callable[[str, str], bytes]
"""Reads the encoded picture of a path that had a stamp, or raises a `DataError`."""


def picture_of(record: Record, open_picture: OpenPicture) -> bytes:
    """The bytes of a record's picture, from whichever path still holds them.

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
        reasons.append(f"{path} holds another picture now")
    raise DataError(reasons[0], reason="unreadable")
