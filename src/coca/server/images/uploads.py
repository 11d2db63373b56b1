"""Uploaded images: files in a folder of the service, named by the hash of their bytes."""

from pathlib import Path

from coca.core.errors import StorageError
from coca.core.files.atomic import write_atomic
from coca.search.milvus.client.lite import address_of, check_space, is_lite
from coca.server.images.data_uris import media_type_of

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
        address = address_of(uri)
        self._database = Path(address) if is_lite(address) else None
        if folder is None:
            folder = Path(f"{address}.uploads" if self._database else "coca.uploads")
        self._folder = folder.absolute()

    def check_space(self) -> None:
        """Check that the disks of the images and of the collection have free space.

        Raises:
            StorageError: They have not.
        """
        for folder in (self._folder, *([self._database] if self._database else [])):
            check_space(folder)

    def write(self, collection: str, id: str, data: bytes) -> Path:
        """Write an image durably, and return its path.

        Args:
            collection: Name of its collection.
            id: Its id, a hash of its bytes.
            data: The encoded image.

        Raises:
            StorageError: The disk is full, or the folder is not writable.
        """
        suffix = _SUFFIXES.get(media_type_of(data), ".image")
        path = self._folder / collection / id[:2] / f"{id}{suffix}"
        if not path.exists():
            write_atomic(path, data)
        return path

    def contains(self, path: str) -> bool:
        """Return whether the service wrote the image of a path."""
        file = Path(path)
        return file.is_absolute() and file.is_relative_to(self._folder)

    def remove(self, path: str) -> None:
        """Delete an image, if the service wrote it.

        Raises:
            StorageError: It cannot be deleted.
        """
        if not self.contains(path):
            return
        file = Path(path)
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{file.name} cannot be deleted: {error.strerror}") from error
