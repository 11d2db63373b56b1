"""Items of a static page: fields, vectors and thumbnails, in the order of their ids.

Dimensions: N items, E embedding.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coca.core.errors import DataError, SearchError
from coca.core.progress import ProgressMaker, silent
from coca.runtime.image_file import read_image
from coca.search.milvus.collection import Collection
from coca.search.query.originals import read_original
from coca.search.records import Record
from coca.workflows.collections.image_resolver import ImageResolver

THUMBNAIL_SIDE = 320
"""Length of the longer side of a thumbnail, in pixels."""


def write_items(
    folder: Path, index: Collection, *, progress: ProgressMaker = silent
) -> tuple[list[dict[str, Any]], int]:
    """Write `vectors.bin` and the thumbnails of a collection.

    The vectors are 16-bit floats of shape (N, E), little-endian. An image that cannot be read any
    more has no thumbnail.

    Args:
        folder: Folder of the page.
        index: The collection.
        progress: Optional progress callback.

    Returns:
        The fields of each item, and the number of items without a thumbnail.

    Raises:
        SearchError: The collection is empty.
    """
    records = sorted(
        (record for batch in index.read_through() for record in batch), key=lambda one: one.id
    )
    if not records:
        raise SearchError(f"collection {index.info.collection!r} in {index.info.uri} is empty")
    vectors = np.stack([record.vector for record in records])
    (folder / "vectors.bin").write_bytes(vectors.astype("<f2").tobytes())
    (folder / "thumbnails").mkdir()
    thumbnails: dict[str, dict[str, Any]] = {}
    read = ImageResolver()
    with progress("writing thumbnails", len(records)) as bar:
        # A container of several images is then opened once.
        for record in sorted(records, key=lambda one: one.path):
            thumbnails[record.id] = _thumbnail(folder, record, read)
            bar.advance()
    items = [
        {
            "id": record.id,
            "name": record.path.rsplit("/", 1)[-1],
            "caption": record.caption,
            **thumbnails[record.id],
        }
        for record in records
    ]
    return items, sum(not one for one in thumbnails.values())


def _thumbnail(folder: Path, record: Record, read: ImageResolver) -> dict[str, Any]:
    """Write one thumbnail; return its path and size, or nothing if the image cannot be read."""
    try:
        image = read_image(read_original(record, read), at_least=THUMBNAIL_SIDE)
    except DataError:
        return {}
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    # An id may hold any characters.
    path = f"thumbnails/{hashlib.sha256(record.id.encode()).hexdigest()[:24]}.jpg"
    image.save(folder / path, "JPEG", quality=82)
    return {"thumbnail": path, "width": image.width, "height": image.height}
