"""Incremental ingest into a collection: embed only new images; safe to repeat after a kill."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from coca.core.errors import SearchError
from coca.core.files.local_files import doubt, is_gone
from coca.core.progress import Bar, ProgressMaker, silent
from coca.search.filters import where
from coca.search.ingest.ingest_report import BadLog, IngestReport
from coca.search.ingest.parquet import read_info, read_vectors
from coca.search.ingest.prefetch import LoadedItem, Reader, records_to_items
from coca.search.ingest.snapshot import CollectionSnapshot, PathCache
from coca.search.ingest.sources import (
    AnySource,
    FileSource,
    ItemSource,
    NamedSource,
    SeriesSource,
    SourceImage,
)
from coca.search.ingest.upsert import Captioner, UpsertPlanner
from coca.search.milvus.collection import Collection
from coca.search.milvus.rows import WRITE_ROWS
from coca.search.predictor import Embedder
from coca.search.records import PATH, Origin, Record, check_same_model

# Write-behind: write records to Milvus in a thread while the model embeds the next batch.


_BATCHES = 2
"""Maximum queued writes; more only fill memory, since the slower side limits throughput."""


class WriteBehind:
    """Record store with asynchronous writes by one thread, in order.

    `get` sees queued writes at once. A later call raises the error of a failed write, and writes
    queued after it are dropped. Leaving the `with` block waits for all writes.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write_behind")
        self._jobs: deque[Future[None]] = deque()
        # Id -> pending record, None for a pending deletion; modified by both threads.
        self._coming: dict[str, Record | None] = {}
        self._lock = threading.Lock()
        self._failed = False

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self._wait(0)

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids, including queued writes."""
        wanted = list(ids)
        with self._lock:
            coming = {id: self._coming[id] for id in wanted if id in self._coming}
        stored = self._collection.get([id for id in wanted if id not in coming])
        return stored | {id: record for id, record in coming.items() if record is not None}

    def upsert(self, records: Iterable[Record]) -> None:
        """Queue an upsert."""
        batch = list(records)
        self._submit(
            {record.id: record for record in batch}, lambda: self._collection.upsert(batch)
        )

    def delete(self, ids: Iterable[str]) -> None:
        """Queue a deletion."""
        batch = list(ids)
        self._submit(dict.fromkeys(batch), lambda: self._collection.delete(batch))

    def flush(self) -> None:
        """Wait for all queued writes and flush them to disk."""
        self._wait(0)
        self._collection.flush()

    def _submit(self, coming: dict[str, Record | None], write: Callable[[], object]) -> None:
        if not coming:
            return
        with self._lock:
            self._coming |= coming
        self._jobs.append(self._thread.submit(self._do, coming, write))
        self._wait(_BATCHES)

    def _do(self, coming: dict[str, Record | None], write: Callable[[], object]) -> None:
        # A deletion after a failed write could delete the only copy.
        if self._failed:
            return
        try:
            write()
        except BaseException:
            self._failed = True
            raise
        with self._lock:
            for id, record in coming.items():
                if id in self._coming and self._coming[id] is record:
                    del self._coming[id]

    def _wait(self, left: int) -> None:
        while len(self._jobs) > left:
            self._jobs.popleft().result()


logger = logging.getLogger(__name__)

_PRUNE_ROWS = 1_000
_MOST_THREADS = 16
_MOST_NAMES = 1_000
"""From so many files on, reading the whole collection is no slower than querying each."""
READ_AHEAD_BATCHES = 2
"""Prefetch depth of image reading, in batches."""
_TITLE = "index images"


def ingest(
    sources: Sequence[AnySource],
    embedder: Embedder,
    collection: Collection,
    *,
    captioner: Captioner | None = None,
    text_reader: Captioner | None = None,
    prune: bool = False,
    prune_empty: bool = False,
    path_cache: PathCache | None = None,
    bad_log: BadLog | None = None,
    progress: ProgressMaker = silent,
    batch_size: int = 64,
) -> IngestReport:
    """Index images and their sidecar metadata into a collection.

    Unchanged images, by size and time of the file or by the checksum in the tar, are not read
    again. The operation is idempotent. Threads read images and write records while the model runs.
    """
    names = _names(sources) if path_cache is not None and path_cache.complete else None
    known = path_cache.ids_of(names) if path_cache is not None and names is not None else set()
    snapshot = _take_snapshot(embedder, collection, names, known)
    total = snapshot.look_at(sources, trust_empty=prune_empty)
    for top in (top for one in sources if isinstance(one, FileSource) for top in one.missing):
        if not snapshot.has_below(top):
            logger.warning("%s does not exist, and the collection has no record of it", top)
    reader = _reader(embedder, snapshot, captioner, batch_size)
    if prune:
        _warn_of_spared(snapshot)
    try:
        with (
            progress(_TITLE, total) as bar,
            _open_planner(
                collection, snapshot, embedder, captioner, batch_size, bar, bad_log, text_reader
            ) as planner,
        ):
            for source in sources:
                _read_source(source, reader, planner)
            planner.write()
            if prune:
                _prune(planner, snapshot, trust_empty=prune_empty)
                if names is not None:
                    # No later run would read these files until they change.
                    fallback = FileSource(filter(os.path.isfile, planner.fallback_paths))
                    _read_source(fallback, reader, planner)
                    planner.write()
    finally:
        # Also after a failed run: its writes persist.
        if path_cache is not None:
            path_cache.take_note(snapshot)
    return planner.report


def add(
    images: Iterable[SourceImage],
    embedder: Embedder,
    collection: Collection,
    *,
    captioner: Captioner | None = None,
    bad_log: BadLog | None = None,
    progress: ProgressMaker = silent,
    batch_size: int = 64,
) -> IngestReport:
    """Index images given as bytes, for instance downloads or images of another program.

    Works like `ingest`, but reads each image to check whether it is new.
    """
    snapshot = _take_snapshot(embedder, collection)
    with (
        progress(_TITLE, None) as bar,
        _open_planner(
            collection, snapshot, embedder, captioner, batch_size, bar, bad_log
        ) as planner,
    ):
        for item in _reader(embedder, snapshot, captioner, batch_size).take(images):
            planner.offer(item)
    return planner.report


def ingest_vectors(
    files: Sequence[str | Path],
    collection: Collection,
    *,
    progress: ProgressMaker = silent,
    batch_size: int = WRITE_ROWS,
) -> IngestReport:
    """Index records that were embedded elsewhere; no model is needed.

    Existing records with the same etag are unchanged, unless they lack a caption.
    """
    infos = [read_info(file) for file in files]
    for info in infos:
        check_same_model(collection.info, fingerprint=info.fingerprint, embed_dim=info.embed_dim)
    snapshot = CollectionSnapshot(_image_origins(collection), half=collection.repair())
    total = sum(info.images for info in infos)
    with (
        progress("index vectors", total) as bar,
        _open_planner(collection, snapshot, None, None, batch_size, bar, None) as planner,
    ):
        for file in files:
            for record in read_vectors(file):
                for item in records_to_items(record):
                    if _is_there(record, item, snapshot):
                        planner.report.unchanged += 1
                        bar.advance()
                    else:
                        planner.offer(item)
    return planner.report


def embed_source(
    source: ItemSource,
    embedder: Embedder,
    *,
    captioner: Captioner | None = None,
    progress: ProgressMaker = silent,
    batch_size: int = 64,
) -> tuple[list[Record], IngestReport]:
    """Embed all images of a source into records in memory; identical images are merged."""
    kept, snapshot = _Kept(), CollectionSnapshot([])
    total = snapshot.look_at([source])
    with progress("embed images", total) as bar:
        planner = UpsertPlanner(
            embedder,
            kept,
            snapshot,
            captioner=captioner,
            text_reader=None,
            batch_size=batch_size,
            bar=bar,
            bad_log=None,
        )
        for item in _reader(embedder, snapshot, captioner, batch_size).read(source):
            planner.offer(item)
        planner.write()
    return list(kept.records.values()), planner.report


class _Kept:
    """In-memory record store, in insertion order."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        return {id: self.records[id] for id in ids if id in self.records}

    def upsert(self, rows: Iterable[Record]) -> None:
        self.records |= {record.id: record for record in rows}

    def delete(self, ids: Iterable[str]) -> None:
        for id in ids:
            self.records.pop(id, None)


def _read_source(source: AnySource, reader: Reader, planner: UpsertPlanner) -> None:
    """Read all entries of a source into the planner."""
    if isinstance(source, SeriesSource):
        for item in reader.read_series(source):
            planner.offer(item)
        return
    for item in reader.read(source):
        if not planner.offer(item):
            planner.offer(reader.read_again(source, item.entry))


def _prune(planner: UpsertPlanner, snapshot: CollectionSnapshot, *, trust_empty: bool) -> None:
    """Delete the records of files that no longer exist."""
    missing = _missing_in(planner.report, trust_empty=trust_empty)
    gone = [*snapshot.gone, *filter(is_gone, missing)]
    for start in range(0, len(gone), _PRUNE_ROWS):
        batch = gone[start : start + _PRUNE_ROWS]
        planner.report.removed += planner.unlink_paths(dict.fromkeys(batch))
    planner.report.removed += planner.forget_lost(snapshot.left)


def _warn_of_spared(snapshot: CollectionSnapshot) -> None:
    """Warn about missing files whose records are kept, since their drive may not be mounted."""
    for folder, paths in snapshot.spared.items():
        logger.warning(
            "%s paths in %s are missing: %s, so they stay in the collection%s",
            f"{len(paths):,}",
            folder,
            snapshot.doubts[folder],
            f" until `coca index {folder} --prune --yes`" if os.access(folder, os.R_OK) else "",
        )


def _missing_in(report: IngestReport, *, trust_empty: bool) -> Iterator[str]:
    """List files that a table still references and that no longer exist."""
    filled: dict[str, bool] = {}
    for path in (bad.path for bad in report.bad if bad.reason == "missing"):
        folder = os.path.dirname(path)
        if folder not in filled:
            # An unmounted drive does not count as a loss.
            filled[folder] = os.path.isdir(folder) and (trust_empty or not doubt(folder))
        if filled[folder]:
            yield path


def _image_origins(collection: Collection) -> Iterator[tuple[str, str, str, Origin]]:
    """Iterate over the records of an image collection."""
    for id, path, caption, origin in collection.origins():
        if not path:
            raise SearchError(
                f"collection {collection.info.collection!r} contains classes, such as {caption!r}; "
                "images need one of their own: name another"
            )
        yield id, path, caption, origin


def _is_there(record: Record, item: LoadedItem, snapshot: CollectionSnapshot) -> bool:
    """Return whether the collection has this path and etag, and the record's caption if any."""
    path, etag = item.entry.path, item.entry.etag
    return snapshot.has_entry(path, etag) and (
        not record.caption or all(snapshot[id].has_caption for id in snapshot.ids_of(path))
    )


def reading_threads() -> int:
    """Compute the number of image-reading threads on this machine."""
    return min(os.cpu_count() or 1, _MOST_THREADS)


@contextmanager
def _open_planner(
    collection: Collection,
    snapshot: CollectionSnapshot,
    embedder: Embedder | None,
    captioner: Captioner | None,
    batch_size: int,
    bar: Bar,
    bad_log: BadLog | None,
    text_reader: Captioner | None = None,
) -> Iterator[UpsertPlanner]:
    """Create a planner with write-behind; on exit all writes are on disk."""
    with WriteBehind(collection) as writer:
        planner = UpsertPlanner(
            embedder,
            writer,
            snapshot,
            captioner=captioner,
            text_reader=text_reader,
            batch_size=batch_size,
            bar=bar,
            bad_log=bad_log,
        )
        yield planner
        planner.write()
        writer.flush()


def _names(sources: Sequence[AnySource]) -> list[str] | None:
    """List the paths that may come from these sources; None if unknown or too many."""
    names: list[str] = []
    for source in sources:
        listed = source.names() if isinstance(source, NamedSource) else None
        if listed is None or len(names) + len(listed) > _MOST_NAMES:
            return None
        names += listed
    return names


def _take_snapshot(
    embedder: Embedder,
    collection: Collection,
    names: Sequence[str] | None = None,
    known: Iterable[str] = (),
) -> CollectionSnapshot:
    """Take a snapshot of all records, or of those with these paths and ids."""
    check_same_model(
        collection.info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim
    )
    if names is None:
        half = collection.repair()
        return CollectionSnapshot(
            _image_origins(collection), half=half, is_local=collection.sees_all_writes
        )
    # A path that is not valid Unicode is in no collection.
    texts = [name for name in names if name.encode(errors="replace").decode() == name]
    ids = {*collection.ids(where(PATH, "in", texts)), *known} if texts else set(known)
    return CollectionSnapshot(
        collection.origins(ids), complete=False, is_local=collection.sees_all_writes
    )


def _reader(
    embedder: Embedder, snapshot: CollectionSnapshot, captioner: Captioner | None, batch_size: int
) -> Reader:
    return Reader(
        embedder,
        snapshot,
        captions=captioner is not None,
        threads=reading_threads(),
        ahead=READ_AHEAD_BATCHES * batch_size,
    )
