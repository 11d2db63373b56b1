"""A zip that holds images and a table of their words, read in place: nothing is unpacked."""

import struct
import zipfile
import zlib
from typing import NamedTuple

from coca.core.errors import ConfigError, DataError
from coca.core.regular_files import MAX_IMAGE_BYTES
from coca.data.sources.base import SOURCES, SourceConfig, reads, single_path
from coca.data.sources.columns import TABLE_SETTINGS, TableSource
from coca.data.sources.tables import SUFFIXES
from coca.data.storage.storage import Storage, full_path

MAX_TABLE_BYTES = 1 << 30
"""Largest table that is read out of a zip; a larger one is unpacked and read as a manifest."""

_HEADER_BYTES = 30
_SLACK_BYTES = 512
"""What a file's own header may hold more than the directory says; read along, to read once."""


class _Member(NamedTuple):
    start: int
    size: int
    """As it is stored, bytes."""
    method: int
    checksum: int
    inflated: int
    """Bytes of its content, as the directory promises."""
    is_encrypted: bool
    end: int
    """Where nothing of it can stand any more."""


class Archive:
    """The files of a zip by name, here or behind a URL.

    Each is read as one range of bytes, so that processes share no position in the file.

    Raises:
        DataError: The file is missing or no zip (reason `"bad_zip"`).
    """

    def __init__(self, path: str, storage: Storage) -> None:
        self._path = path
        self._storage = storage
        size = storage.size(path)
        try:
            with storage.open(path) as stream, zipfile.ZipFile(stream) as file:
                entries, directory = file.infolist(), file.start_dir
        # Of hostile directories zipfile raises the last ones, too: names that are not UTF-8, places
        # below 0 or of 64 bits, records that end early.
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
            raise DataError(f"{path} is no whole zip: {error}", reason="bad_zip") from error
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
        """Names of its files, in the order of the zip."""
        return tuple(self._members)

    def read(self, name: str, *, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """The content of a file.

        Args:
            name: Of the file within the zip.
            max_bytes: A file that inflates to more is refused, before memory is taken for it.

        Raises:
            DataError: There is no such file (reason `"missing"`), it is too large (`"too_large"`),
                or it is damaged.
        """
        if name not in self._members:
            raise DataError(f"{self._path} holds no {name}", reason="missing")
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

    def place(self, name: str) -> str:
        """The zip's full path or URL, and the name within it."""
        return f"{full_path(self._path)}/{name}"

    def stamp(self, name: str) -> str:
        """The checksum that the zip keeps; empty for a file that is not there."""
        return f"{self._members[name].checksum:08x}" if name in self._members else ""

    def _inflated(self, name: str, member: _Member, stored: bytes) -> bytes:
        if member.method == zipfile.ZIP_STORED:
            return stored
        if member.method == zipfile.ZIP_DEFLATED:
            try:
                # A byte more than promised shows that the promise is wrong; more is not inflated.
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


@SOURCES.register("zip")
@reads("table", *TABLE_SETTINGS)
def zip_source(config: SourceConfig) -> TableSource:
    """The rows of a table inside a zip, whose images stand in the same zip.

    The table is the only JSON-lines, CSV or Parquet file of the zip, or the one named by `table`;
    its columns are those of a `manifest`, and images are named by their path within the zip.

    Raises:
        DataError: The zip is missing or damaged, or holds no table.
        ConfigError: It holds several tables, no row fits `where`, or there is no image column.
    """
    path = single_path(config)
    archive = Archive(path, Storage())
    table = _table_name(archive, config, path)
    content = archive.read(table, max_bytes=MAX_TABLE_BYTES)
    return TableSource(content, f"{path}/{table}", archive, config)


def _table_name(archive: Archive, config: SourceConfig, path: str) -> str:
    if config.table:
        return config.table
    found = [name for name in archive.names if name.lower().endswith(SUFFIXES)]
    if not found:
        raise DataError(
            f"{path} holds no table ({', '.join(SUFFIXES)}); for images alone, unpack it and "
            "take `kind: folder`",
            reason="missing",
        )
    if len(found) > 1:
        raise ConfigError(f"{path} holds several tables; set table to one of {', '.join(found)}")
    return found[0]
