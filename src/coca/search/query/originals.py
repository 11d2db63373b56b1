"""Read the encoded image of a record again."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from coca.core.errors import DataError
from coca.search.records import Record, content_id, series_of

ImageOpener: TypeAlias = Callable[[str, str], bytes]
"""Reads the encoded image of a path and etag, or raises a `DataError`."""


def read_original(record: Record, open_image: ImageOpener) -> bytes:
    """Read the bytes of a record's image, and check that they are still those of its content.

    Raises:
        DataError: The image cannot be read, or the path has another image now.
    """
    path, etag = record.path, record.origin.etag
    image = open_image(path, etag)
    # For video frames the etag decides: decoders may decode one frame slightly differently.
    is_frame = series_of(path, etag) != path
    if is_frame or record.content in ("", content_id(image)):
        return image
    raise DataError(f"{path} contains another image now", reason="unreadable")


def read_originals(
    records: Iterable[Record], open_image: ImageOpener
) -> tuple[dict[str, bytes], list[str]]:
    """Read the images of several records, each tar or video once.

    Returns:
        The encoded image of each record by id, and the reason for each unreadable image.
    """
    images: dict[str, bytes] = {}
    lost: list[str] = []
    # Sorted by path, so that each tar or video is read once.
    for record in sorted(records, key=lambda record: (record.path, record.id)):
        try:
            images[record.id] = read_original(record, open_image)
        except DataError as error:
            lost.append(str(error))
    return images, lost
