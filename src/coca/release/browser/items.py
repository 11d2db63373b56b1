"""Items of a static page: fields, vectors and thumbnails, in the order of their ids.

Dimensions: N items, E embedding.
"""

import hashlib
from collections.abc import Sequence
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


def sorted_records(index: Collection) -> list[Record]:
    """Read all records of a collection, sorted by id.

    Raises:
        SearchError: The collection is empty.
    """
    records = sorted(
        (record for batch in index.read_through() for record in batch), key=lambda one: one.id
    )
    if not records:
        raise SearchError(f"collection {index.info.collection!r} in {index.info.uri} is empty")
    return records


def write_vectors(folder: Path, records: Sequence[Record], *, captions: bool) -> None:
    """Write `vectors.bin`, and with `captions` also `caption_vectors.bin`.

    They are 16-bit floats of shape (N, E), little-endian. A caption without a vector has zeros.

    Args:
        folder: Folder of the page.
        records: The records, sorted by id.
        captions: Write the vectors of captions as well: given ones and those of the model.
    """
    vectors = np.stack([record.vector for record in records])
    (folder / "vectors.bin").write_bytes(vectors.astype("<f2").tobytes())
    if captions:
        none = np.zeros_like(records[0].vector)
        found = [none if one.text_vector is None else one.text_vector for one in records]
        (folder / "caption_vectors.bin").write_bytes(np.stack(found).astype("<f2").tobytes())


def write_items(
    folder: Path, records: Sequence[Record], *, progress: ProgressMaker = silent
) -> tuple[list[dict[str, Any]], int]:
    """Write the thumbnails of a collection; describe its items.

    An image that cannot be read any more has no thumbnail.

    Args:
        folder: Folder of the page.
        records: The records, sorted by id.
        progress: Optional progress callback.

    Returns:
        The fields of each item, and the number of items without a thumbnail.
    """
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
            "caption_source": record.caption_source,
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
