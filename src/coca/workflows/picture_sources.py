"""What a name on a command line stands for: files, tars or tables, as sources of pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.data.sources import PlacedSource, SourceConfig, open_source
from coca.data.storage import expand_braces, is_remote
from coca.data.tables import SUFFIXES
from coca.search.pictures import IMAGE_SUFFIXES, Picture
from coca.search.sources import Entry, FileSource, PictureSource

_TABLE_KINDS = dict.fromkeys(SUFFIXES, "manifest") | {".zip": "zip"}
"""Suffix of a place -> kind of the source that reads it."""

_WRONG_KINDS = {
    ".json": "a manifest has one JSON object a line: write it as .jsonl, or as .csv or .parquet",
    ".npy": "vectors alone do not tell whose they are; name the pictures themselves",
    ".db": "that is where a collection lies; name the pictures to put into it, and the place by "
    "--uri",
    ".gz": "compressed tars cannot be read at any place; unpack it to a .tar",
    ".tgz": "compressed tars cannot be read at any place; unpack it to a .tar",
    ".zst": "compressed tars cannot be read at any place; unpack it to a .tar",
    ".txt": "a list of files is read as a manifest: a .csv whose first line is `image`",
    ".idx": "that is the index of a tar; name the tar",
}


def sources_of(places: Sequence[str | Path]) -> list[PictureSource]:
    """The sources that folders, files, patterns and URLs stand for, of several kinds together.

    Args:
        places: Folders of pictures or of tars, pictures, tars (with `*` and braces, also behind
            URLs), manifests (JSON lines, CSV, Parquet), and zips with pictures and a table.

    Raises:
        DataError: A place is missing or cannot be read.
        ConfigError: A place holds nothing that can be indexed; the message says what to do.
    """
    files: list[str] = []
    tars: list[str] = []
    tables: list[str] = []
    for place in map(str, places):
        kinds = _kinds(place)
        files += [place] if "files" in kinds else []
        tars += [place] if "tars" in kinds else []
        tables += [place] if "table" in kinds else []
    sources: list[PictureSource] = [FileSource(files)] if files else []
    if tars:
        sources.append(SampleSource(SourceConfig(kind="shards", path=tuple(tars))))
    sources += [
        SampleSource(SourceConfig(kind=_TABLE_KINDS[Path(table).suffix.lower()], path=table))
        for table in tables
    ]
    return sources


def check_places(places: Sequence[str | Path]) -> None:
    """Refuse what `sources_of` would refuse, as far as names and suffixes tell.

    Raises:
        DataError: A place is missing.
        ConfigError: A place holds nothing that can be indexed.
    """
    for place in places:
        _kinds(str(place))


class SampleSource:
    """A source of training samples as a source of pictures.

    Raises:
        DataError: It cannot be read.
        ConfigError: It has no pictures that can be followed over time.
    """

    def __init__(self, config: SourceConfig) -> None:
        source = open_source(config)
        if not isinstance(source, PlacedSource):
            raise ConfigError(f"a source of kind {config.kind} cannot be indexed")
        self._source = source
        # Place -> each row that describes its picture, and the picture's number within the row.
        self._rows: dict[str, list[tuple[int, int]]] = {}
        for row in range(len(source)):
            for number, place in enumerate(source.places(row)):
                self._rows.setdefault(place, []).append((row, number))
        self._entries = [Entry(place, self._stamp(rows)) for place, rows in self._rows.items()]

    def entries(self) -> Sequence[Entry]:
        """A picture each, in the order of its first row."""
        return self._entries

    def words(self, entry: Entry) -> None:
        """Nothing apart: the stamp changes when the words do."""

    def read(self, entry: Entry) -> Picture:
        """The picture with the words of all rows that describe it."""
        rows = self._rows[entry.path]
        samples = [self._source.read(row) for row, _ in rows]
        captions = list(dict.fromkeys(one for sample in samples for one in sample.captions))
        first = samples[0]
        return Picture(
            path=entry.path,
            image=first.images[rows[0][1]],
            caption=captions[0] if captions else "",
            metadata=_metadata(first, captions),
            stamp=entry.stamp,
        )

    def has_lost(self, path: str, stamp: str) -> bool:
        """Whether it would be here: a tar that is there is known in full, as is a table."""
        return self._source.owned(path, stamp)

    def _stamp(self, rows: Sequence[tuple[int, int]]) -> str:
        stamps = []
        for row, _ in rows:
            try:
                stamps.append(self._source.stamp(row))
            except DataError:
                # Reading it will tell.
                return ""
        return ",".join(stamps)


def _metadata(sample: Sample, captions: Sequence[str]) -> Mapping[str, Any]:
    metadata = dict(sample.metadata)
    if sample.labels:
        metadata["labels"] = list(sample.labels)
    if len(captions) > 1:
        metadata["captions"] = list(captions)
    return metadata


def _kinds(place: str) -> set[str]:
    """Which of `files`, `tars` and `table` a place holds."""
    path = Path(place)
    suffix = path.suffix.lower()
    if not is_remote(place) and path.is_dir() and suffix != ".db":
        return {"files", "tars"} if any(path.glob("*.tar")) else {"files"}
    if suffix == ".tar" or any(one.endswith(".tar") for one in expand_braces(place)):
        return {"tars"}
    if suffix in _TABLE_KINDS:
        return {"table"}
    if suffix in IMAGE_SUFFIXES and not is_remote(place):
        return {"files"}
    if suffix in IMAGE_SUFFIXES:
        raise ConfigError(f"{place}: single URLs are not fetched; list them in a manifest")
    if not is_remote(place) and not path.exists():
        raise DataError(f"there is no file or folder {place}", reason="missing")
    advice = _WRONG_KINDS.get(
        suffix,
        f"right are folders, pictures, .tar shards, and tables: {', '.join(_TABLE_KINDS)}",
    )
    raise ConfigError(f"{place} cannot be indexed: {advice}")
