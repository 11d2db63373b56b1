"""Thumbnails of items: small JPEG files, cached on disk."""

import contextlib
import hashlib
import os
import uuid
from pathlib import Path

from coca.core.files.atomic import user_cache
from coca.server.images.decoding.decoder import Decoder

SIDES = (128, 256, 512, 1_024)
"""Lengths of the longer side that are offered, in pixels."""


class Thumbnails:
    """Cache of thumbnails; a full disk only disables it."""

    def __init__(self, folder: Path | None, decoder: Decoder) -> None:
        self._folder = user_cache() / "thumbnails" if folder is None else folder
        self._decoder = decoder

    def cached(self, key: str, side: int) -> bytes | None:
        """Read a thumbnail from the cache; None if it is missing."""
        try:
            return self._path(key, side).read_bytes() or None
        except OSError:
            return None

    def make(self, key: str, side: int, data: bytes) -> bytes:
        """Encode the thumbnail of an image, and cache it.

        Args:
            key: Identifies the item among all collections.
            side: One of `SIDES`.
            data: The encoded image.

        Raises:
            DataError: The image cannot be decoded.
        """
        small = self._decoder.thumbnail(data, side)
        path = self._path(key, side)
        unfinished = path.with_name(f".incomplete-{uuid.uuid4().hex}")
        # The cache is not needed to answer.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                unfinished.write_bytes(small)
                os.replace(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
        return small

    def remove(self, key: str) -> None:
        """Remove the thumbnails of an item from the cache."""
        for side in SIDES:
            with contextlib.suppress(OSError):
                self._path(key, side).unlink(missing_ok=True)

    def _path(self, key: str, side: int) -> Path:
        # Ids of records may hold any characters, so that files are named by a hash.
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self._folder / name[:2] / f"{name}-{side}.jpg"
