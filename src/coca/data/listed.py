"""What readers of published formats share: a list of entries that name their pictures."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coca.core.errors import DataError
from coca.data.sample import Sample, parse_text
from coca.data.sources import SourceConfig, single_path
from coca.data.storage import Storage, is_remote


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample but for its picture, which is read when it is asked for."""

    key: str
    """As `Sample`."""
    file: str
    """The picture, relative to the folder of the pictures."""
    captions: tuple[str, ...] = ()
    """As `Sample`."""
    labels: tuple[str, ...] = ()
    """As `Sample`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """As `Sample`."""


class ListedSource:
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
        """The sample without its picture; `DataError` if its entry is malformed."""
        entry = self._entries[row]
        if isinstance(entry, DataError):
            raise entry
        return Sample(entry.key, b"", entry.captions, entry.labels, entry.metadata)

    def read(self, row: int) -> Sample:
        """The sample; `DataError` if its entry is malformed or its picture is missing."""
        entry = self._entries[row]
        if isinstance(entry, DataError):
            raise entry
        image = self._picture(entry.file)
        return Sample(entry.key, image, entry.captions, entry.labels, entry.metadata)

    def _picture(self, file: str) -> bytes:
        return self._storage.read_all(f"{self._images}/{file}" if self._images else file)


def read_annotations(config: SourceConfig) -> tuple[dict[str, Any], str]:
    """The one JSON object that `config.path` names, and a hash of it and of the parts asked for.

    Raises:
        DataError: It is missing, or no object in JSON.
    """
    path = single_path(config)
    content = Storage().read_all(path)
    try:
        annotations = json.loads(parse_text(content, path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}", reason="bad_record") from error
    if not isinstance(annotations, dict):
        raise DataError(
            f"{path} holds a JSON {type(annotations).__name__}; right is an object in braces",
            reason="bad_record",
        )
    digest = hashlib.sha256(content + "\0".join(config.splits).encode())
    return annotations, digest.hexdigest()[:16]


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
    """Where pictures lie: as the config says, else beside the file at its path.

    Raises:
        DataError: That folder is missing.
    """
    if config.images:
        if not is_remote(config.images) and not os.path.isdir(config.images):
            raise DataError(
                f"the folder of the pictures, {config.images}, is missing", reason="missing"
            )
        return config.images
    return single_path(config).replace(os.sep, "/").rpartition("/")[0]


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
