"""The images of a collection, each once, however many copies of it there are.

Dimensions: N images, E embedding.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from coca.search.filters import NOT_HIDDEN, all_of
from coca.search.store import Collection


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images that are not hidden, each by the first of its paths, sorted by id."""

    ids: list[str]
    paths: list[str]
    vectors: Float32[np.ndarray, "N E"]
    copies: dict[str, list[str]]
    """Path of each image that has identical copies -> their paths, sorted."""


def read_images(collection: Collection, filter: str = "") -> Images:
    """Read the images that a filter keeps; records of the same content are one image."""
    among = all_of(filter, NOT_HIDDEN) if filter else NOT_HIDDEN
    records: dict[str, list[tuple[str, str]]] = {}
    for page in collection.pages(among, vectors=False):
        for record in page:
            same = records.setdefault(record.content or record.id, [])
            same.append((record.path, record.id))
    ids, vectors = collection.vectors()
    rows = {id: row for row, id in enumerate(ids)}
    firsts, copies = [], {}
    for same in records.values():
        path, id = min(same)
        # A record that was deleted meanwhile has no vector.
        if id in rows:
            firsts.append((id, path))
            # A folder and a table may both list a file.
            if others := {other for other, _ in same} - {path}:
                copies[path] = sorted(others)
    firsts.sort()
    return Images(
        ids=[id for id, _ in firsts],
        paths=[path for _, path in firsts],
        vectors=vectors[[rows[id] for id, _ in firsts]],
        copies={path: copies[path] for path in sorted(copies)},
    )
