"""The state of one filling: what the collection holds, what changed, and the batch to write next.

One picture is one record, wherever it lies: its id is the hash of its bytes. The first path that
brings it leads: its path, caption and metadata are the record's; the others are remembered in
`origin.files`. When the leading file is gone or holds another picture now, the next one leads.
A record is written before the one that it replaces is removed, so that a run which is killed in
between leaves both, and the next run removes the old one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.core.progress import Bar
from coca.search.engine import Embedder
from coca.search.milvus import Index
from coca.search.pictures import Picture, Words, is_gone, read_words, stamp_of
from coca.search.records import (
    MAX_BYTES,
    ORIGIN,
    Origin,
    Record,
    check_same_model,
    content_id,
    fault_of,
)

Captioner: TypeAlias = Callable[[Sequence[bytes]], Sequence[str]]
"""Writes a caption for each encoded picture."""

_MAX_FILES_BYTES = MAX_BYTES[ORIGIN] // 2
"""Room for the paths of one record; copies beyond it are read again by each run."""


@dataclass(frozen=True)
class BadPicture:
    """A picture that was left out."""

    path: str
    reason: str
    """A short slug to count by, such as `"truncated"`."""
    detail: str
    """A sentence."""


@dataclass(kw_only=True)
class IngestReport:
    """What a run did; every picture it met is counted once, under one of the first five."""

    added: int = 0
    """New records."""
    updated: int = 0
    """Records whose picture, caption or metadata changed."""
    unchanged: int = 0
    duplicates: int = 0
    """Pictures that another path had already brought."""
    bad: list[BadPicture] = field(default_factory=list)
    removed: int = 0
    """Records whose files are gone; only with `prune`."""


@dataclass
class Known:
    """What the collection holds for one id, without the vector."""

    path: str
    has_caption: bool
    origin: Origin


class Filler:
    """Gathers pictures into batches, embeds what is new, and writes."""

    def __init__(
        self,
        embedder: Embedder,
        index: Index,
        captioner: Captioner | None,
        batch_size: int,
        bar: Bar,
    ) -> None:
        """Read what the collection holds.

        Raises:
            SearchError: The collection was filled by another model.
        """
        check_same_model(index.info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim)
        self._embedder = embedder
        self._index = index
        self._captioner = captioner
        self._batch_size = batch_size
        self._bar = bar
        self._batch: list[Picture] = []
        self._counts: Counter[str] = Counter()
        self._bad: list[BadPicture] = []
        self._known: dict[str, Known] = {}
        # Path -> the records that claim it: several after a run that was killed.
        self._ids: dict[str, set[str]] = {}
        # Path -> stamp of the file as it is now, for the files of this run.
        self._stamps: dict[str, str] = {}
        self._gone: set[str] = set()
        for id, path, caption, origin in index.origins():
            self._remember(id, Known(path, bool(caption), origin))

    def report(self, removed: int) -> IngestReport:
        """What was done so far."""
        return IngestReport(**self._counts, bad=self._bad, removed=removed)

    def look_at(self, files: Sequence[Path], roots: Sequence[str | Path]) -> list[str]:
        """Take the stamps of files; returns the paths below `roots` that are known but gone."""
        self._stamps = {str(file): stamp_of(file) for file in files}
        tops = [Path(root).absolute() for root in roots]
        self._gone = {
            path
            for path in self._ids.keys() - self._stamps.keys()
            if any(Path(path).is_relative_to(top) for top in tops) and is_gone(path)
        }
        return sorted(self._gone)

    def offer_file(self, path: Path) -> None:
        """Take in one file, read only if it or its words may have changed."""
        try:
            words = read_words(path)
            if self._is_unchanged(str(path), words):
                self._counts["unchanged"] += 1
                self._bar.advance()
                return
            image = path.read_bytes()
        except DataError as error:
            self._reject(str(path), error.reason, str(error))
            self._bar.advance()
        except OSError as error:
            self._reject(str(path), "unreadable", f"{path} cannot be read: {error.strerror}")
            self._bar.advance()
        else:
            self.offer(
                Picture(
                    path=str(path),
                    image=image,
                    caption=words.caption,
                    metadata=words.metadata,
                    stamp=self._stamps[str(path)],
                )
            )

    def offer(self, picture: Picture) -> None:
        """Take in one picture; it is written when its batch is full."""
        if fault := fault_of(picture.path, picture.caption, picture.metadata):
            self._reject(picture.path, "bad_words", f"{picture.path}: {fault}")
            self._bar.advance()
            return
        self._batch.append(picture)
        if len(self._batch) >= self._batch_size:
            self.write()

    def write(self) -> None:
        """Embed and write the batch."""
        batch, self._batch = self._batch, []
        copies: dict[str, list[Picture]] = {}
        kept: dict[str, str | None] = {}
        for picture in batch:
            id = content_id(picture.image)
            copies.setdefault(id, []).append(picture)
            kept[picture.path] = id
        stored = self._index.get([id for id in copies if id in self._known])
        vectors = self._embed({id: copies[id] for id in copies if id not in stored})
        records: dict[str, Record] = {}
        for id, pictures in copies.items():
            record = stored.get(id)
            if record is None and id not in vectors:
                continue
            for picture in pictures:
                if record is None:
                    record = _first_record(id, vectors[id], picture)
                    self._counts["updated" if picture.path in self._ids else "added"] += 1
                else:
                    record = self._join(record, picture)
            if record is not None:
                records[id] = record
        self._write_captions(records, copies)
        changed = {id: record for id, record in records.items() if record != stored.get(id)}
        self._index.upsert(changed.values())
        for id, record in changed.items():
            self._remember(id, Known(record.path, bool(record.caption), record.origin))
        self.let_go(kept)
        self._bar.advance(len(batch), added=self._counts["added"], bad=len(self._bad))

    def let_go(self, kept: Mapping[str, str | None]) -> int:
        """End the claims of all records on these paths, but for the one that is named.

        A record without a file left is removed.

        Args:
            kept: Path -> id of the record that it belongs to now, or None.

        Returns:
            How many records were removed.
        """
        freed: dict[str, set[str]] = {}
        for path, id in kept.items():
            for other in self._ids.get(path, set()) - {id}:
                freed.setdefault(other, set()).add(path)
        removed, changed = [], []
        for id, record in self._index.get(freed).items():
            files = {
                path: stamp for path, stamp in record.origin.files.items() if path not in freed[id]
            }
            if files:
                lead = record.path if record.path in files else min(files)
                record = replace(record, path=lead, origin=replace(record.origin, files=files))
                self._remember(id, Known(lead, bool(record.caption), record.origin))
                changed.append(record)
            else:
                self._forget(id)
                removed.append(id)
        self._index.upsert(changed)
        self._index.delete(removed)
        return len(removed)

    def _is_unchanged(self, path: str, words: Words) -> bool:
        for id in sorted(self._ids.get(path, ())):
            known = self._known[id]
            if known.origin.files[path] != self._stamps[path]:
                continue
            if known.path != path:
                same = self._is_current(known.path, known.origin)
            else:
                same = known.origin.label == _label(words.caption, words.metadata)
                same = same and (known.has_caption or self._captioner is None)
            if same:
                # What a killed run did not come to.
                self.let_go({path: id})
            return same
        return False

    def _is_current(self, path: str, origin: Origin) -> bool:
        """Whether a file that a record claims is there and has not changed, as far as is known."""
        claimed = origin.files.get(path)
        return path not in self._gone and self._stamps.get(path, claimed) == claimed

    def _join(self, record: Record, picture: Picture) -> Record:
        """The record of the same bytes with one more path, or with newer words of its own."""
        origin = record.origin
        known = picture.path in origin.files
        leads = picture.path == record.path or not self._is_current(record.path, origin)
        if known or leads or len(json.dumps(dict(origin.files))) < _MAX_FILES_BYTES:
            files = {path: stamp for path, stamp in origin.files.items() if path not in self._gone}
            origin = replace(origin, files=files | {picture.path: picture.stamp})
        if not leads:
            self._counts["unchanged" if known else "duplicates"] += 1
            return replace(record, origin=origin)
        label = _label(picture.caption, picture.metadata)
        captioned = origin.captioned and not picture.caption
        joined = replace(
            record,
            path=picture.path,
            caption=record.caption if captioned else picture.caption,
            metadata=picture.metadata,
            origin=replace(origin, label=label, captioned=captioned),
        )
        same = (record.path, record.origin.label) == (picture.path, label)
        same = same and bool(joined.caption or self._captioner is None)
        self._counts["unchanged" if same else "updated"] += 1
        return joined

    def _embed(self, copies: Mapping[str, Sequence[Picture]]) -> dict[str, Any]:
        """Id -> vector; pictures that cannot be read are reported and left out."""
        if not copies:
            return {}
        ids = list(copies)
        try:
            vectors = self._embedder.embed_images([copies[id][0].image for id in ids])
        except DataError as error:
            if len(ids) == 1:
                for picture in copies[ids[0]]:
                    self._reject(picture.path, error.reason, str(error))
                return {}
            half = len(ids) // 2
            parts = ids[:half], ids[half:]
            left, right = (self._embed({id: copies[id] for id in part}) for part in parts)
            return left | right
        return dict(zip(ids, vectors, strict=True))

    def _write_captions(
        self, records: dict[str, Record], copies: Mapping[str, Sequence[Picture]]
    ) -> None:
        speechless = [id for id, record in records.items() if not record.caption]
        if self._captioner is None or not speechless:
            return
        captions = self._captioner([copies[id][0].image for id in speechless])
        for id, caption in zip(speechless, captions, strict=True):
            origin = replace(records[id].origin, captioned=True)
            records[id] = replace(records[id], caption=caption, origin=origin)

    def _reject(self, path: str, reason: str, detail: str) -> None:
        # A file name need not be text; what is reported must be.
        path, detail = (text.encode(errors="backslashreplace").decode() for text in (path, detail))
        self._bad.append(BadPicture(path, reason, detail))

    def _remember(self, id: str, known: Known) -> None:
        self._forget(id)
        self._known[id] = known
        for path in known.origin.files:
            self._ids.setdefault(path, set()).add(id)

    def _forget(self, id: str) -> None:
        known = self._known.pop(id, None)
        for path in known.origin.files if known else ():
            self._ids[path].discard(id)


def _first_record(id: str, vector: Float32[np.ndarray, " E"], picture: Picture) -> Record:
    return Record(
        id=id,
        path=picture.path,
        caption=picture.caption,
        metadata=picture.metadata,
        vector=vector,
        origin=Origin(
            files={picture.path: picture.stamp},
            label=_label(picture.caption, picture.metadata),
        ),
    )


def _label(caption: str, metadata: Mapping[str, Any]) -> str:
    """Digest of the words that were given with a picture."""
    text = json.dumps([caption, dict(metadata)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
