"""Scan of a tar: find its members by their headers, and detect damage."""

import io
import logging
import tarfile
import zlib
from typing import NamedTuple

from coca.core.errors import DataError

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 20


class Member(NamedTuple):
    """A file within a tar."""

    name: str
    offset: int
    size: int
    crc32: int
    """Checksum of the content; 0 in a scan of the headers alone."""


class TarScan(NamedTuple):
    """Result of a tar scan."""

    members: list[Member]
    end: int
    """First byte of the end mark."""


def scan_tar(stream: io.BufferedIOBase, path: str, *, checksums: bool = False) -> TarScan:
    """Scan the files of a tar. A hard link counts as its target under its own name.

    Symbolic links, devices and FIFOs are skipped, with a warning that counts them.
    """
    members, seen, left_out = list[Member](), dict[str, Member](), list[str]()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    try:
        with tarfile.open(fileobj=_Within(stream), mode="r:") as tar:  # type: ignore[call-overload]
            while (entry := tar.next()) is not None:
                # tarfile keeps each header for random access, which a single pass does not need.
                tar.members.clear()
                _check(entry)
                if entry.isfile():
                    members.append(_read(stream, entry, size, checksums=checksums))
                elif entry.islnk() and entry.linkname in seen:
                    members.append(seen[entry.linkname]._replace(name=entry.name))
                elif not entry.isdir():
                    left_out.append(entry.name)
                    continue
                else:
                    continue
                seen[entry.name] = members[-1]
            end = tar.offset
        _check_end(stream, end)
    # On malicious headers tarfile also raises the last types here: sizes below 0 or of 80 bits,
    # names in headers that are nested a thousand levels deep.
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{path} is truncated, damaged or not a plain tar ({error}); "
            f"last good member: {_last(members)}",
            reason="damaged_tar",
        ) from error
    except OSError as error:
        problem = error.strerror or error
        raise DataError(
            f"{path} cannot be read: {problem}; last good member: {_last(members)}",
            reason="unreadable",
        ) from error
    if left_out:
        logger.warning(
            "%s: %s links, devices or the like are left out, the first is %s",
            path,
            f"{len(left_out):,}",
            _shown(left_out[0]),
        )
    return TarScan(members, end)


def _last(members: list[Member]) -> str:
    return _shown(members[-1].name) if members else "none"


def _shown(name: str) -> str:
    """Return the end of a name, which can have megabytes and bytes that are not UTF-8."""
    return name[-300:].encode("utf-8", "backslashreplace").decode()


def _check_end(stream: io.BufferedIOBase, end: int) -> None:
    """Check that the tar ends with zero blocks and has no data after them.

    tarfile also takes a damaged header for the end. A writer that was killed between two members
    leaves no end mark. If a header was zeroed, or tars were concatenated, more members follow.
    """
    stream.seek(end)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end mark at byte {end:,}")
    while piece := stream.read(READ_BYTES):
        if piece.count(0) < len(piece):
            raise tarfile.ReadError(f"there are data behind the end mark at byte {end:,}")


def _check(entry: tarfile.TarInfo) -> None:
    if entry.size < 0:
        raise tarfile.ReadError(f"{_shown(entry.name)} has a size of {entry.size:,} bytes")
    if entry.issparse():
        raise tarfile.ReadError(f"{_shown(entry.name)} is a sparse file; pack it without its holes")
    if "\0" in entry.name:
        raise tarfile.ReadError(f"the name {entry.name!r:.80} contains a NUL")


def _read(
    stream: io.BufferedIOBase, entry: tarfile.TarInfo, size: int, *, checksums: bool
) -> Member:
    """Locate a member of a tar of `size` bytes, and compute its CRC-32 if asked."""
    if missing := max(entry.offset_data + entry.size - size, 0):
        raise EOFError(f"{_shown(entry.name)} lacks its last {missing:,} bytes")
    crc32, left = 0, entry.size if checksums else 0
    stream.seek(entry.offset_data)
    while left:
        piece = stream.read(min(left, READ_BYTES))
        crc32 = zlib.crc32(piece, crc32)
        left -= len(piece)
    return Member(entry.name, entry.offset_data, entry.size, crc32)


class _Within:
    """Stream wrapper that limits reads to the file size, so that headers cannot exhaust memory."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        start = stream.tell()
        self._size = stream.seek(0, io.SEEK_END)
        stream.seek(start)
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int) -> bytes:
        if count < 0:
            raise ValueError(f"a header has a size of {count:,} bytes")
        return self._stream.read(min(count, max(self._size - self._stream.tell(), 0)))
