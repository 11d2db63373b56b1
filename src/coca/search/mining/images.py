"""The images of a collection, each once, however many copies of it there are.

Dimensions: N images, E embedding, B bytes of a perceptual hash.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from coca.core.files.local_files import size_in_etag
from coca.search.filters import NOT_HIDDEN, all_of
from coca.search.perceptual_hash import stacked
from coca.search.records import Record
from coca.search.store import Collection

_Quality: TypeAlias = tuple[int, int, int, str, str]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What is compared of images to find near-duplicates."""

    vectors: Float32[np.ndarray, "N E"]
    hashes: UInt8[np.ndarray, "N B"]
    """Perceptual hashes; zeros where there is none, and the image is like no other."""
    sizes: Int64[np.ndarray, "N 2"]
    """Width and height in pixels; 0 if unknown."""


@dataclass(frozen=True, kw_only=True)
class Images(Compared):
    """Images that are not hidden, each by the best of its paths, sorted by id."""

    ids: list[str]
    paths: list[str]
    ranks: list[int]
    """Rank of each image, 0 for the best: by pixels, then bytes of the file, then metadata."""
    copies: dict[str, list[str]]
    """Path of each image that has identical copies -> their paths, sorted."""


def read_images(collection: Collection, filter: str = "") -> Images:
    """Read the images that a filter keeps; records of the same content are one image."""
    among = all_of(filter, NOT_HIDDEN) if filter else NOT_HIDDEN
    best: dict[str, tuple[_Quality, Record]] = {}
    paths: dict[str, set[str]] = {}
    for page in collection.pages(among):
        for record in page:
            content = record.content or record.id
            paths.setdefault(content, set()).add(record.path)
            # Without what takes memory and is not compared.
            found = _quality(record), replace(record, caption="", metadata={}, text_vector=None)
            best[content] = min(best.get(content, found), found)
    kept = sorted(best.items(), key=lambda item: item[1][1].id)
    records = [record for _, (_, record) in kept]
    order = sorted(range(len(kept)), key=lambda row: kept[row][1][0])
    # A folder and a table may both list a file.
    copies = {record.path: sorted(paths[content] - {record.path}) for content, (_, record) in kept}
    return Images(
        ids=[record.id for record in records],
        paths=[record.path for record in records],
        vectors=np.array([record.vector for record in records], np.float32).reshape(
            len(records), collection.info.embed_dim
        ),
        hashes=stacked([record.perceptual_hash for record in records]),
        sizes=np.array([(one.width, one.height) for one in records], np.int64).reshape(-1, 2),
        ranks=np.argsort(order).tolist(),
        copies={path: copies[path] for path in sorted(copies) if copies[path]},
    )


def _quality(record: Record) -> _Quality:
    """Return the sort key of records of the same image, best first."""
    metadata = sum(
        (
            record.caption_source == "given",
            record.date_source == "taken",
            len(record.tags),
            len(record.metadata),
        )
    )
    size_bytes = size_in_etag(record.origin.etag) or 0
    return -record.width * record.height, -size_bytes, -metadata, record.path, record.id
