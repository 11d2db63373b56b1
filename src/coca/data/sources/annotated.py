"""What readers of published formats share: a list of entries that name their images."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from coca.core.errors import DataError
from coca.core.regular_files import MAX_IMAGE_BYTES
from coca.data.sample import Sample, parse_record, parse_text
from coca.data.sources.base import SourceConfig, single_path
from coca.data.storage.storage import Storage, is_remote, local_stamp

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample but for its image, which is read when it is asked for."""

    key: str
    """As `Sample`."""
    file: str
    """The image, relative to the folder of the images."""
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
    """Further images, as `file`."""

    def sample(self, images: Sequence[bytes]) -> Sample:
        """The sample with its images; none makes one of words alone."""
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


class AnnotatedSource:
    """Samples from a list; an error in the place of an entry is raised when it is read."""

    block_size = 1

    def __init__(
        self, entries: Sequence[Entry | DataError], *, images: str, fingerprint: str
    ) -> None:
        """Takes what a reader found.

        Args:
            entries: In the order of the rows.
            images: Folder or URL that the files of the entries are relative to.
            fingerprint: Changes when the entries do.
        """
        self._entries = entries
        self._images = images
        self._storage = Storage()
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, row: int) -> str:
        """The key of the entry, or the row's number where it is malformed."""
        entry = self._entries[row]
        return str(row) if isinstance(entry, DataError) else entry.key

    def words(self, row: int) -> Sample:
        """The sample without its images; `DataError` if its entry is malformed."""
        return self._entry(row).sample(())

    def read(self, row: int) -> Sample:
        """The sample; `DataError` if its entry is malformed or an image is missing."""
        entry = self._entry(row)
        return entry.sample([self._picture(file) for file in (entry.file, *entry.others)])

    def stamp(self, row: int) -> str:
        """Size and modification time of the images; the fingerprint covers the list itself."""
        entry = self._entry(row)
        return " ".join(local_stamp(self._place(file)) for file in (entry.file, *entry.others))

    def _entry(self, row: int) -> Entry:
        entry = self._entries[row]
        if isinstance(entry, DataError):
            raise entry
        return entry

    def _picture(self, file: str) -> bytes:
        if is_remote(file):
            raise DataError(
                f"{file:.200} is a URL; these lists name files below the folder `images`",
                reason="not_allowed",
            )
        return self._storage.read_all(self._place(file), max_bytes=MAX_IMAGE_BYTES)

    def _place(self, file: str) -> str:
        return f"{self._images}/{file}" if self._images else file


def read_annotations(config: SourceConfig) -> tuple[dict[str, Any], str]:
    """The one JSON object that `config.path` names, and a hash of it and of the parts asked for.

    Raises:
        DataError: It is missing, or no object in JSON.
    """
    path = single_path(config)
    content = Storage().read_all(path)
    annotations = parse_json(content, path, dict)
    return annotations, fingerprint_of([content], config)


def read_lines(config: SourceConfig) -> tuple[list[dict[str, Any] | DataError], str]:
    """The JSON object of each line of the file at `config.path`, and a hash as above.

    A malformed line is an error in its place; empty ones are left out.

    Raises:
        DataError: The file is missing.
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
    """What a file in JSON holds; `path` is what errors call it.

    Raises:
        DataError: It is no JSON, or another thing than asked for (reason `"bad_record"`).
    """
    try:
        found = json.loads(parse_text(content, path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}", reason="bad_record") from error
    if not isinstance(found, kind):
        right = "an object in braces" if kind is dict else "a list in brackets"
        raise DataError(
            f"{path} holds a JSON {type(found).__name__}; right is {right}", reason="bad_record"
        )
    return found


def fingerprint_of(contents: Iterable[bytes], config: SourceConfig) -> str:
    """A hash of the files that name the samples, and of the parts asked for."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    digest.update("\0".join(config.splits).encode())
    return digest.hexdigest()[:16]


def malformed(origin: str, cause: Exception, right: str) -> DataError:
    """What stands in the place of an entry that lacks something; `right` says what it should be."""
    return DataError(f"{origin} is malformed ({cause!r}); right is {right}", reason="bad_record")


def list_in(annotations: Mapping[str, Any], name: str, path: str) -> list[Any]:
    """The list that stands under `name`.

    Raises:
        DataError: There is none; the message names what stands there.
    """
    found = annotations.get(name)
    if not isinstance(found, list):
        raise DataError(
            f"{path} has no list called {name!r}, but {', '.join(map(str, annotations))}",
            reason="bad_record",
        )
    return found


def image_folder(config: SourceConfig) -> str:
    """Where images lie: as the config says, else beside the file at its first path.

    Raises:
        DataError: That folder is missing.
    """
    if config.images:
        if not is_remote(config.images) and not os.path.isdir(config.images):
            raise DataError(
                f"the folder of the images, {config.images}, is missing", reason="missing"
            )
        return config.images
    return config.paths[0].replace(os.sep, "/").rpartition("/")[0]


def require_splits(config: SourceConfig, found: Iterable[str]) -> None:
    """Checks that each part that is asked for is there.

    Args:
        config: Its `split` is checked.
        found: The parts of the file, once for each of its samples.

    Raises:
        DataError: One holds no sample; the message says which parts there are.
    """
    counts: dict[str, int] = {}
    for split in found:
        counts[split] = counts.get(split, 0) + 1
    for split in config.splits:
        if not counts.get(split):
            there = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items()))
            raise DataError(
                f"the split {split!r} of {config.title} holds no sample; there are "
                f"{there or 'none at all'}",
                reason="empty_split",
            )
