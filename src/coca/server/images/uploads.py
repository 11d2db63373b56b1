"""Images of the service: uploads, thumbnails and contact sheets."""

import fcntl
import hashlib
import io
import math
import os
import re
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from coca.core.errors import StorageError
from coca.core.files.atomic import user_cache, write_atomic
from coca.core.files.formats import media_type_of
from coca.search.stores import is_file
from coca.server.images.decoding.decoder import Decoder

# Contact sheets: the images of hits in one image, numbered, for models that see.


COLUMNS = 5
SIDE_PX = 256
"""Length of the longer side of an image on the sheet, in pixels."""
_GAP_PX = 8
_LABEL_PX = 24


def draw_sheet(images: Sequence[UInt8[np.ndarray, "H W 3"] | None]) -> bytes:
    """Draw images into a grid, row by row, each with its number above it, as a JPEG."""
    columns = min(COLUMNS, max(1, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    width, height = SIDE_PX + _GAP_PX, SIDE_PX + _LABEL_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * width + _GAP_PX, rows * height + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for number, pixels in enumerate(images):
        row, column = divmod(number, columns)
        left, top = _GAP_PX + column * width, _GAP_PX + row * height
        draw.text((left, top), str(number + 1), fill="black", font_size=_LABEL_PX - 4)
        if pixels is not None:
            x, y = (SIDE_PX - pixels.shape[1]) // 2, (SIDE_PX - pixels.shape[0]) // 2
            sheet.paste(Image.fromarray(pixels), (left + x, top + _LABEL_PX + y))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=85)
    return stream.getvalue()


# Thumbnails of items: small JPEG files, cached on disk.


SIDES = (128, 256, 512, 1_024, 2_048)
"""Lengths of the longer side that are offered, in pixels."""


_COLOR = re.compile(rb"\xff\xfe\x00\x09(#[0-9a-f]{6})")
"""Comment of a thumbnail: the mean color of the image."""
_HEAD_BYTES, _MAX_COLORS = 64, 200_000


def _color_of(jpeg: bytes) -> str | None:
    found = _COLOR.search(jpeg, 0, _HEAD_BYTES)
    return found[1].decode() if found else None


class Thumbnails:
    """Cache of thumbnails; a full disk only disables it."""

    def __init__(self, folder: Path | None, decoder: Decoder) -> None:
        self._folder = user_cache() / "thumbnails" if folder is None else folder
        self._decoder = decoder
        # None: there was no thumbnail when the color was first asked for.
        self._colors: dict[str, str | None] = {}

    def color(self, key: str) -> str | None:
        """Return the mean color of an image as `#rrggbb`; None before its first thumbnail."""
        if key in self._colors:
            return self._colors[key]
        found = None
        for side in SIDES:
            with suppress(OSError), open(self._path(key, side), "rb") as file:
                if found := _color_of(file.read(_HEAD_BYTES)):
                    break
        return self._keep(key, found)

    def _keep(self, key: str, color: str | None) -> str | None:
        if len(self._colors) >= _MAX_COLORS:
            self._colors.clear()
        self._colors[key] = color
        return color

    def cached(self, key: str, side: int) -> bytes | None:
        """Read a thumbnail from the cache; None if it is missing."""
        try:
            small = self._path(key, side).read_bytes()
        except OSError:
            return None
        if not self._colors.get(key):
            # Another process may have made it.
            self._keep(key, _color_of(small))
        return small or None

    def make(self, key: str, side: int, data: bytes) -> bytes:
        """Encode the thumbnail of an image, and cache it."""
        small = self._decoder.thumbnail(data, side)
        self._keep(key, _color_of(small))
        path = self._path(key, side)
        unfinished = path.with_name(f".incomplete-{uuid.uuid4().hex}")
        # The cache is not needed to answer.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                unfinished.write_bytes(small)
                os.replace(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
        return small

    def remove(self, key: str) -> None:
        """Remove the thumbnails of an item from the cache."""
        self._colors.pop(key, None)
        for side in SIDES:
            with suppress(OSError):
                self._path(key, side).unlink(missing_ok=True)

    def _path(self, key: str, side: int) -> Path:
        # Ids of records may contain any characters, so that files are named by a hash.
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self._folder / name[:2] / f"{name}-{side}.jpg"


# Uploaded images: files in a folder of the service, named by the hash of their bytes.


_PENDING = ".pending"
"""Folder with an empty file for each upload whose record is not written yet."""
_SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
    "image/avif": ".avif",
    "image/heic": ".heic",
}


class Uploads:
    """Writes uploaded images, each before its record."""

    def __init__(self, folder: Path | None, uri: str) -> None:
        if folder is None:
            local = uri.removeprefix("milvus-lite:")
            folder = Path(f"{local}.uploads" if is_file(local) else "coca.uploads")
        self._folder = folder.absolute()

    @contextmanager
    def writing(self, collection: str, content: str, data: bytes) -> Iterator[Path]:
        """Write an image with a hash durably, before its record; see `unfinished`.

        Yields:
            Its path, for the record that the body writes.
        """
        name = f"{content}{_SUFFIXES.get(media_type_of(data), '.image')}"
        marker, path = (
            self._folder / _PENDING / f"{collection}.{name}",
            self._path(collection, name),
        )
        with _locked(marker):
            if not path.exists():
                write_atomic(path, data)
            try:
                yield path
            finally:
                marker.unlink(missing_ok=True)

    def unfinished(self, collections: Collection[str]) -> Iterator[str]:
        """Iterate over paths of images whose record a killed service may not have written.

        Images that a running service is writing are left out. After the path was used, it is
        forgotten.
        """
        for marker in sorted((self._folder / _PENDING).glob("*")):
            collection, _, name = marker.name.partition(".")
            if collection in collections:
                with suppress(BlockingIOError), _locked(marker, wait=False):
                    yield str(self._path(collection, name))
                    marker.unlink(missing_ok=True)

    def _path(self, collection: str, name: str) -> Path:
        return self._folder / collection / name[:2] / name

    def contains(self, path: str) -> bool:
        """Return whether the service wrote the image of a path."""
        file = Path(path)
        return file.is_absolute() and file.is_relative_to(self._folder)

    def remove(self, path: str) -> None:
        """Delete an image, if the service wrote it."""
        if not self.contains(path):
            return
        file = Path(path)
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{file.name} cannot be deleted: {error.strerror}") from error


@contextmanager
def _locked(file: Path, *, wait: bool = True) -> Iterator[None]:
    """Create a file and lock it: the lock ends with the process."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("a")
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}") from error
    with opened:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
