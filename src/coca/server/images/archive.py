"""ZIP archives that are streamed: no archive is in memory or in a file."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedIOBase, BytesIO
from pathlib import Path
from zipfile import ZipFile, ZipInfo

_CHUNK_BYTES = 1 << 20
_MAX_NAME = 200
_FIRST, _LAST = datetime(1980, 1, 1, tzinfo=UTC), datetime(2107, 12, 31, tzinfo=UTC)
"""Dates that a ZIP archive can have."""
_RESERVED = str.maketrans(
    dict.fromkeys('\\/:*?"<>|', "_") | dict.fromkeys(map(chr, range(32)), "_")
)
"""Characters that a file name lacks on some system."""


@dataclass(frozen=True)
class ArchivedFile:
    """A file of an archive."""

    name: str
    content: bytes | Path
    """Content, or the file that has it."""
    time: int = 0
    """Local date in seconds since 1970; 0 if unknown."""

    def open(self) -> BufferedIOBase:
        """Open the content."""
        return BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


def stream_zip(files: Iterable[ArchivedFile]) -> Iterator[bytes]:
    """Iterate over the bytes of a ZIP archive, whose files are read one after the other.

    Files are stored without compression, as images and videos are compressed already. Files above 4
    GB and longer archives have the fields of ZIP64. Equal names get a number.
    """
    sink, names = _Sink(), set[str]()
    with ZipFile(sink, "w") as archive:  # type: ignore[call-overload]
        for file in files:
            info = ZipInfo(_unique(file.name, names), _date(file.time))
            info.external_attr = 0o644 << 16
            with file.open() as source:
                # Sizes follow the content, and their fields have to fit before it is read.
                info.file_size = source.seek(0, 2)
                source.seek(0)
                with archive.open(info, "w") as member:
                    while chunk := source.read(_CHUNK_BYTES):
                        member.write(chunk)
                        yield sink.take()
    yield sink.take()


class _Sink:
    """Output of a ZIP archive, whose bytes are taken away; it has no position."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered elsewhere."""

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _unique(name: str, names: set[str]) -> str:
    """Add a name to those of the archive, with a number if there is an equal one."""
    wanted = Path(name.translate(_RESERVED).strip(". ") or "image")
    stem, end = wanted.stem[:_MAX_NAME], wanted.suffix[:_MAX_NAME]
    found, number = f"{stem}{end}", 2
    while found.casefold() in names:
        found, number = f"{stem} ({number}){end}", number + 1
    names.add(found.casefold())
    return found


def _date(seconds: int) -> tuple[int, int, int, int, int, int]:
    bounded = min(max(seconds, _FIRST.timestamp()), _LAST.timestamp())
    moment = datetime.fromtimestamp(bounded, UTC)
    return moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second
