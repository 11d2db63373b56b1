"""Zip source: images and their table in one archive, read without unpacking."""

import struct
import zipfile
import zlib
from typing import NamedTuple

from coca.core.errors import ConfigError, DataError
from coca.core.files.local_files import MAX_IMAGE_BYTES
from coca.data.sources.source import register_source, single_path
from coca.data.sources.table import SUFFIXES
from coca.data.sources.table_source import TableConfig, TableSource
from coca.data.storage.storage import Storage, full_path

MAX_TABLE_BYTES = 1 << 30
"""Largest table in a zip, bytes; unpack a larger one and read it as a manifest."""

_HEADER_BYTES = 30
_SLACK_BYTES = 512
"""Extra bytes to read, since the local header may be longer than the central one."""


class _Member(NamedTuple):
    start: int
    size: int
    """Compressed size, bytes."""
    method: int
    checksum: int
    inflated: int
    """Uncompressed size by the central directory, bytes."""
    is_encrypted: bool
    end: int
    """Upper bound of the end of the member in the archive."""


class Archive:
    """Random access to the members of a local or remote zip.

    Each member is read as one byte range, so that processes share no file position.
    """

    def __init__(self, path: str, storage: Storage) -> None:
        self._path = path
        self._storage = storage
        size = storage.size(path)
        try:
            with storage.open(path) as stream, zipfile.ZipFile(stream) as file:
                entries, directory = file.infolist(), file.start_dir
        # On malicious directories zipfile also raises the last types here: names outside UTF-8,
        # offsets below 0 or of 64 bits, truncated records.
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            EOFError,
            OSError,
            ValueError,
            OverflowError,
            MemoryError,
            struct.error,
        ) as error:
            raise DataError(f"{path} is not a whole zip: {error}", reason="bad_zip") from error
        self._members = {
            entry.filename: _Member(
                entry.header_offset,
                entry.compress_size,
                entry.compress_type,
                entry.CRC,
                entry.file_size,
                bool(entry.flag_bits & 1),
                min(directory or size, size),
            )
            for entry in entries
            if not entry.filename.endswith("/")
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members, in archive order."""
        return tuple(self._members)

    def read(self, name: str, *, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """Read the content of a member."""
        if name not in self._members:
            raise DataError(f"{self._path} has no {name}", reason="missing")
        member = self._members[name]
        if member.inflated > max_bytes:
            raise DataError(
                f"{name} in {self._path} has {member.inflated:,} bytes, and at most {max_bytes:,} "
                "are read out of a zip",
                reason="too_large",
            )
        if member.is_encrypted:
            raise DataError(f"{name} in {self._path} is encrypted", reason="encrypted")
        length = _HEADER_BYTES + len(name.encode()) + member.size
        end = min(member.start + length + _SLACK_BYTES, member.end)
        (part,) = self._storage.read(self._path, [(member.start, end)])
        first = _HEADER_BYTES + sum(int.from_bytes(part[at : at + 2], "little") for at in (26, 28))
        if first + member.size > len(part):
            (part,) = self._storage.read(
                self._path, [(member.start, member.start + first + member.size)]
            )
        content = self._inflated(name, member, part[first : first + member.size])
        if len(content) != member.inflated or zlib.crc32(content) != member.checksum:
            raise DataError(f"{name} in {self._path} is damaged", reason="bad_checksum")
        return content

    def path(self, name: str) -> str:
        """Return the full path or URL of the zip, followed by the member name."""
        return f"{full_path(self._path)}/{name}"

    def etag(self, name: str) -> str:
        """Return the CRC-32 of a member; empty if there is no such member."""
        return f"{self._members[name].checksum:08x}" if name in self._members else ""

    def _inflated(self, name: str, member: _Member, stored: bytes) -> bytes:
        if member.method == zipfile.ZIP_STORED:
            return stored
        if member.method == zipfile.ZIP_DEFLATED:
            try:
                # One byte more than declared detects a wrong size; no more is inflated.
                inflater = zlib.decompressobj(-zlib.MAX_WBITS)
                return inflater.decompress(stored, member.inflated + 1)
            except zlib.error as error:
                raise DataError(
                    f"{name} in {self._path} is damaged: {error}", reason="bad_checksum"
                ) from error
        raise DataError(
            f"{name} in {self._path} is packed by method {member.method}; pack it with deflate, or "
            "not at all",
            reason="unknown_kind",
        )


class ZipConfig(TableConfig):
    """Settings of a zip of images with their table."""

    kind: str = "zip"

    table: str = ""
    """Name of the table in the archive, if it has several."""


@register_source("zip", ZipConfig)
def zip_source(config: ZipConfig) -> TableSource:
    """Open the table in a zip, whose images are in the same zip.

    The table is the only JSON-lines, CSV or Parquet file of the zip, or the one named by `table`;
    its columns are those of a `manifest`, and images are named by their path within the zip.
    """
    path = single_path(config)
    archive = Archive(path, Storage())
    table = _table_name(archive, config, path)
    content = archive.read(table, max_bytes=MAX_TABLE_BYTES)
    return TableSource(content, f"{path}/{table}", archive, config)


def _table_name(archive: Archive, config: ZipConfig, path: str) -> str:
    if config.table:
        return config.table
    found = [name for name in archive.names if name.lower().endswith(SUFFIXES)]
    if not found:
        raise DataError(
            f"{path} has no table ({', '.join(SUFFIXES)}); for images alone, unpack it and "
            "take `kind: folder`",
            reason="missing",
        )
    if len(found) > 1:
        raise ConfigError(f"{path} has several tables; set table to one of {', '.join(found)}")
    return found[0]
