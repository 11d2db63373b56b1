"""Filling a collection: only what is new is embedded, and a killed run can be repeated."""

from collections.abc import Iterable
from pathlib import Path

from coca.core.progress import ProgressMaker, silent
from coca.search.engine import Embedder
from coca.search.filler import Captioner, Filler, IngestReport
from coca.search.milvus import Index
from coca.search.pictures import Picture, find_pictures

_PRUNE_ROWS = 1_000


def ingest(
    paths: str | Path | Iterable[str | Path],
    embedder: Embedder,
    index: Index,
    *,
    captioner: Captioner | None = None,
    prune: bool = False,
    progress: ProgressMaker = silent,
    batch_size: int = 64,
) -> IngestReport:
    """Put the pictures of folders into a collection, with the words that lie beside them.

    A file whose size and time have not changed is not read again. Run it as often as you like:
    what is there already stays as it is.

    Args:
        paths: One or several: folders, searched through, and single files.
        embedder: The model that the collection belongs to.
        index: The collection.
        captioner: Writes the captions of pictures that come without one.
        prune: Remove records of files that are gone from these folders.
        progress: Makes the bar to show.
        batch_size: Pictures to embed at once.

    Raises:
        DataError: A path does not exist.
        SearchError: The collection was filled by another model, or cannot be written.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    files = find_pictures(paths)
    with progress("index pictures", len(files)) as bar:
        filler = Filler(embedder, index, captioner, batch_size, bar)
        gone = filler.look_at(files, paths)
        for path in files:
            filler.offer_file(path)
        filler.write()
        removed = 0
        if prune:
            for start in range(0, len(gone), _PRUNE_ROWS):
                batch = gone[start : start + _PRUNE_ROWS]
                removed += filler.let_go(dict.fromkeys(batch))
    index.flush()
    return filler.report(removed)


def add(
    pictures: Iterable[Picture],
    embedder: Embedder,
    index: Index,
    *,
    captioner: Captioner | None = None,
    progress: ProgressMaker = silent,
    batch_size: int = 64,
) -> IngestReport:
    """Put pictures from anywhere into a collection: shards, downloads, another program.

    Works as `ingest` does, but each picture is read to see whether it is new.

    Raises:
        SearchError: The collection was filled by another model, or cannot be written.
    """
    with progress("index pictures", None) as bar:
        filler = Filler(embedder, index, captioner, batch_size, bar)
        for picture in pictures:
            filler.offer(picture)
        filler.write()
    index.flush()
    return filler.report(0)
