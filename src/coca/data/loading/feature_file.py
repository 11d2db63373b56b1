"""Feature files: the encoder features of every image of a source, in fp16 and memory-mapped.

    header (4,096 bytes)   JSON: format version and the fields of `FeatureKey`
    one record per row     features (V, P, F) fp16; a checksum of each view; whether it is usable

The file is written in the order of rows, under another name until it is complete. So a writer that
was killed continues after the last complete record.

Dimensions: N rows, V views of each image, P tokens, F features.
"""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16
from numpy.typing import NDArray

from coca.core.config.frozen_config import digest
from coca.core.errors import DataError, StorageError

FORMAT_VERSION = 2
HEADER_BYTES = 4096
SUFFIX = ".features"


@dataclass(frozen=True, kw_only=True)
class FeatureKey:
    """What the features of a file depend on; its hash is the name of the file."""

    encoder: str
    """Hash of the encoder's weights and configuration."""
    transform: str
    """Hash of image transform and augmentation."""
    data: str
    """Fingerprint of the source."""
    rows: int
    """Rows of the source."""
    views: int
    """Augmented views of each image."""
    tokens: int
    """Tokens of an image."""
    width: int
    """Features of a token."""

    @property
    def file_name(self) -> str:
        """Name of the file: hashes of encoder, transform and data with all sizes."""
        parts = (self.encoder[:8], self.transform[:8], digest(self)[:8])
        return "-".join(parts) + SUFFIX

    @property
    def record(self) -> np.dtype[Any]:
        """Layout of a record."""
        return np.dtype(
            [
                ("features", "<f2", (self.views, self.tokens, self.width)),
                ("checksums", "<u4", (self.views,)),
                ("usable", "<u4"),
            ]
        )

    @property
    def total_bytes(self) -> int:
        """Size of the complete file."""
        return HEADER_BYTES + self.rows * self.record.itemsize

    def header(self) -> bytes:
        """Return the header of the file."""
        text = json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, sort_keys=True)
        return text.encode().ljust(HEADER_BYTES - 1) + b"\n"


class FeatureFile:
    """Reader of a complete feature file; picklable, and opened on first read."""

    def __init__(self, path: Path, key: FeatureKey) -> None:
        """Check header and size of a file."""
        self.path = path
        self.key = key
        self._records: NDArray[Any] | None = None
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
        if header != key.header() or path.stat().st_size != key.total_bytes:
            raise DataError(
                f"{path} is damaged or of other data ({path.stat().st_size:,} bytes, expected "
                f"{key.total_bytes:,}); delete it, and `coca data features RECIPE` writes it again",
                reason="bad_features",
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None}

    def read(self, row: int, view: int) -> Float16[np.ndarray, "P F"] | None:
        """Read the features of a view of the image in a row; None if the image was unusable."""
        if self._records is None:
            self._records = np.memmap(
                self.path, self.key.record, mode="r", offset=HEADER_BYTES, shape=(self.key.rows,)
            )
        record = self._records[row]
        if not record["usable"]:
            return None
        found = np.array(record["features"][view])
        if checksum(row, view, found) != record["checksums"][view]:
            raise DataError(
                f"the features of row {row} in {self.path} are damaged; delete the file, and "
                "`coca data features RECIPE` writes it again",
                reason="bad_features",
            )
        return found


class FeaturesInUseError(StorageError):
    """Another process is writing the feature file."""


class FeatureWriter:
    """Writer of a feature file that continues an unfinished one.

    Use it as a context manager: the file is locked against other writers.
    """

    def __init__(self, folder: Path, key: FeatureKey) -> None:
        self.path = folder / key.file_name
        self.key = key
        self._unfinished = self.path.with_name(f".incomplete-{self.path.name}")

    def __enter__(self) -> "FeatureWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._unfinished.open("a+b")
            try:
                _lock(self._file.fileno(), self._unfinished)
            except StorageError:
                self._file.close()
                raise
            self._file.seek(0)
            if self._file.read(HEADER_BYTES) != self.key.header():
                self._file.truncate(0)
                self._file.write(self.key.header())
            size = max(os.path.getsize(self._unfinished), HEADER_BYTES)
            self.rows_done = (size - HEADER_BYTES) // self.key.record.itemsize
            self._file.truncate(HEADER_BYTES + self.rows_done * self.key.record.itemsize)
        except OSError as error:
            raise _storage_error(self._unfinished, error) from error
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(
        self, features: Float16[np.ndarray, "N V P F"], usable: Bool[np.ndarray, " N"]
    ) -> None:
        """Append the features of all views of the next rows."""
        records = np.zeros(len(features), self.key.record)
        records["features"], records["usable"] = features, usable
        records["checksums"] = [
            [
                checksum(self.rows_done + number, view, features[number, view])
                for view in range(self.key.views)
            ]
            for number in range(len(features))
        ]
        try:
            self._file.write(records.tobytes())
            self._file.flush()
        except OSError as error:
            raise _storage_error(self._unfinished, error) from error
        self.rows_done += len(features)

    def finish(self) -> FeatureFile:
        """Give the complete file its name."""
        try:
            os.fsync(self._file.fileno())
            self._unfinished.replace(self.path)
        except OSError as error:
            raise _storage_error(self.path, error) from error
        return FeatureFile(self.path, self.key)


def checksum(row: int, view: int, found: Float16[np.ndarray, "P F"]) -> int:
    """Compute the CRC-32 of features and their position, so that swapped rows are detected."""
    return zlib.crc32(np.ascontiguousarray(found).tobytes(), zlib.crc32(b"%d %d" % (row, view)))


def feature_identity(files: Sequence[FeatureFile]) -> Mapping[str, Any]:
    """Return what identifies the features of a run, for the fingerprint of its data."""
    return {"features": [[file.key.encoder, file.key.transform, file.key.views] for file in files]}


def _lock(descriptor: int, path: Path) -> None:
    """Lock a file until it is closed; not on Windows, where `fcntl` is missing."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FeaturesInUseError(f"{path} is being written by another process") from None


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} cannot be written: {error.strerror or error}")
