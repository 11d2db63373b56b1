"""Base of annotation formats: sources over a list of entries that name their image files."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from coca.core.annotations import parse_record, parse_text
from coca.core.errors import DataError
from coca.core.files.local_files import MAX_IMAGE_BYTES, file_etag
from coca.data.sample import Sample
from coca.data.sources.source import Source, SourceConfig, SplitConfig, single_path
from coca.data.storage.storage import Storage, is_remote

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AnnotatedSample:
    """A sample without its images, which are read on demand."""

    key: str
    """As `Sample`."""
    file: str
    """Path of the image, relative to the image folder."""
    captions: tuple[str, ...] = ()
    """As `Sample`."""
    labels: tuple[str, ...] = ()
    """As `Sample`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """As `Sample`."""
    text: str = ""
    """As `Sample`."""
    answers: tuple[str, ...] = ()
    """As `Sample`."""
    others: tuple[str, ...] = ()
    """Paths of further images, as `file`."""

    def sample(self, images: Sequence[bytes]) -> Sample:
        """Build the sample with the given images; without any, it has text and metadata only."""
        return Sample(
            self.key,
            images[0] if images else b"",
            self.captions,
            self.labels,
            self.metadata,
            text=self.text,
            answers=self.answers,
            others=tuple(images[1:]),
        )


class AnnotatedSource(Source):
    """Source over a list of entries; an error in the list is raised when its row is read."""

    has_metadata = True

    def __init__(
        self, entries: Sequence[AnnotatedSample | DataError], *, images: str, fingerprint: str
    ) -> None:
        """Store the entries of a reader."""
        self._entries = entries
        self._images = images
        self._storage = Storage()
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, row: int) -> str:
        """Return the key of the entry, or the row number of a malformed entry."""
        entry = self._entries[row]
        return str(row) if isinstance(entry, DataError) else entry.key

    def read_metadata(self, row: int) -> Sample:
        """Return the sample without its images; `DataError` if its entry is malformed."""
        return self._entry(row).sample(())

    def read(self, row: int) -> Sample:
        """Read the sample; `DataError` if its entry is malformed or an image is missing."""
        entry = self._entry(row)
        return entry.sample([self._image(file) for file in (entry.file, *entry.others)])

    def etag(self, row: int) -> str:
        """Return size and modification time of the images; the fingerprint covers the list."""
        entry = self._entry(row)
        return " ".join(file_etag(self._path(file)) for file in (entry.file, *entry.others))

    def _entry(self, row: int) -> AnnotatedSample:
        entry = self._entries[row]
        if isinstance(entry, DataError):
            raise entry
        return entry

    def _image(self, file: str) -> bytes:
        if is_remote(file):
            raise DataError(
                f"{file:.200} is a URL; these lists name files below the folder `images`",
                reason="not_allowed",
            )
        return self._storage.read_all(self._path(file), max_bytes=MAX_IMAGE_BYTES)

    def _path(self, file: str) -> str:
        return f"{self._images}/{file}" if self._images else file


class AnnotationsConfig(SourceConfig):
    """Settings of annotation files that name their images; the kind is given."""

    images: str = ""
    """Folder of the images or videos; by default the folder of the file."""


class SplitAnnotationsConfig(SplitConfig, AnnotationsConfig):
    """Settings of annotation files with splits; the kind is given."""


def read_annotations(config: SourceConfig) -> tuple[dict[str, Any], str]:
    """Read the JSON object at `config.path`; return it with its fingerprint."""
    path = single_path(config)
    content = Storage().read_all(path)
    annotations = parse_json(content, path, dict)
    return annotations, fingerprint_of([content], config)


def read_lines(config: SourceConfig) -> tuple[list[dict[str, Any] | DataError], str]:
    """Read the JSON-lines file at `config.path`; return its objects with its fingerprint.

    A malformed line yields an error; empty lines are skipped.
    """
    path = single_path(config)
    content = Storage().read_all(path)
    lines: list[dict[str, Any] | DataError] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                lines.append(parse_record(line, f"line {number} of {path}"))
            except DataError as error:
                lines.append(error)
    return lines, fingerprint_of([content], config)


def parse_json(content: bytes, path: str, kind: type[T]) -> T:
    """Parse the content of a JSON file; `path` identifies it in errors."""
    try:
        found = json.loads(parse_text(content, path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}", reason="bad_record") from error
    if not isinstance(found, kind):
        right = "a JSON object" if kind is dict else "a JSON list"
        raise DataError(
            f"{path} must contain {right}, got a {type(found).__name__}", reason="bad_record"
        )
    return found


def fingerprint_of(contents: Iterable[bytes], config: SourceConfig) -> str:
    """Hash the content of the annotation files and the selected splits."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    splits = config.splits if isinstance(config, SplitConfig) else ()
    digest.update("\0".join(splits).encode())
    return digest.hexdigest()[:16]


def malformed(origin: str, cause: Exception, right: str) -> DataError:
    """Make the error of a malformed entry; `right` describes a valid entry."""
    return DataError(f"{origin} is malformed ({cause!r}); it must be {right}", reason="bad_record")


def unlisted(what: str, numbers: Iterable[Any], title: str) -> list[DataError]:
    """Make an error for each image id that annotations have and the list of images lacks."""
    return [
        DataError(
            f"a {what} of {title} belongs to image {number}, which is not listed",
            reason="bad_record",
        )
        for number in numbers
    ]


def list_in(annotations: Mapping[str, Any], name: str, path: str) -> list[Any]:
    """Return the list under the key `name`."""
    found = annotations.get(name)
    if not isinstance(found, list):
        raise DataError(
            f"{path} has no list called {name!r}, but {', '.join(map(str, annotations))}",
            reason="bad_record",
        )
    return found


def image_folder(config: AnnotationsConfig) -> str:
    """Return the image folder: `config.images`, else the folder of the first path."""
    if config.images:
        if not is_remote(config.images) and not os.path.isdir(config.images):
            raise DataError(
                f"the folder of the images, {config.images}, is missing", reason="missing"
            )
        return config.images
    return config.paths[0].replace(os.sep, "/").rpartition("/")[0]


def require_splits(config: SplitConfig, found: Iterable[str]) -> None:
    """Check that each requested split has samples."""
    counts = Counter(found)
    for split in config.splits:
        if not counts[split]:
            there = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items()))
            raise DataError(
                f"the split {split!r} of {config.title} has no sample; there are "
                f"{there or 'none at all'}",
                reason="empty_split",
            )
