"""Filling a collection: only what is new is embedded, and a killed run can be repeated."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from coca.core.progress import ProgressMaker, silent
from coca.search.behind import WriteBehind
from coca.search.engine import Embedder
from coca.search.filler import Captioner, Filler
from coca.search.ledger import Ledger
from coca.search.milvus import Index
from coca.search.pictures import Picture
from coca.search.reading import Reader
from coca.search.records import check_same_model
from coca.search.report import BadLog, IngestReport
from coca.search.sources import AnySource, FileSource, PictureSource, SeriesSource

_PRUNE_ROWS = 1_000
_MOST_THREADS = 16
_BATCHES_AHEAD = 2
_TITLE = "index pictures"


def ingest(
    places: str | Path | AnySource | Iterable[str | Path | AnySource],
    embedder: Embedder,
    index: Index,
    *,
    captioner: Captioner | None = None,
    prune: bool = False,
    bad_log: BadLog | None = None,
    progress: ProgressMaker = silent,
    batch_size: int = 64,
) -> IngestReport:
    """Put pictures into a collection, with the words that lie beside them.

    What has not changed, by size and time of its file or by the checksum in its tar, is not read
    again. Run it as often as you like: what is there already stays as it is. Pictures are read by
    threads and written by another, while the model works.

    Args:
        places: One or several: folders, searched through, single files, and other sources.
        embedder: The model that the collection belongs to.
        index: The collection.
        captioner: Writes the captions of pictures that come without one.
        prune: Remove records of what is gone from these places.
        bad_log: Told of bad pictures; may stop the run.
        progress: Makes the bar to show.
        batch_size: Pictures to embed at once.

    Raises:
        DataError: A path does not exist, or too many pictures are bad.
        SearchError: The collection was filled by another model, or cannot be written.
    """
    sources = _as_sources(places)
    ledger = _ledger(embedder, index)
    total = ledger.look_at(sources)
    reader = _reader(embedder, ledger, captioner, batch_size)
    with progress(_TITLE, total) as bar, WriteBehind(index) as behind:
        filler = Filler(
            embedder,
            behind,
            ledger,
            captioner=captioner,
            batch_size=batch_size,
            bar=bar,
            bad_log=bad_log,
        )
        for source in sources:
            if isinstance(source, SeriesSource):
                for found in reader.read_series(source):
                    filler.offer(found)
                continue
            for found in reader.read(source):
                if not filler.offer(found):
                    filler.offer(reader.read_again(source, found.entry))
        filler.write()
        if prune:
            gone = ledger.gone
            for start in range(0, len(gone), _PRUNE_ROWS):
                batch = gone[start : start + _PRUNE_ROWS]
                filler.report.removed += filler.let_go(dict.fromkeys(batch))
        behind.flush()
    return filler.report


def add(
    pictures: Iterable[Picture],
    embedder: Embedder,
    index: Index,
    *,
    captioner: Captioner | None = None,
    bad_log: BadLog | None = None,
    progress: ProgressMaker = silent,
    batch_size: int = 64,
) -> IngestReport:
    """Put pictures from anywhere into a collection: downloads, another program.

    Works as `ingest` does, but each picture is read to see whether it is new.

    Raises:
        DataError: Too many pictures are bad.
        SearchError: The collection was filled by another model, or cannot be written.
    """
    ledger = _ledger(embedder, index)
    with progress(_TITLE, None) as bar, WriteBehind(index) as behind:
        filler = Filler(
            embedder,
            behind,
            ledger,
            captioner=captioner,
            batch_size=batch_size,
            bar=bar,
            bad_log=bad_log,
        )
        for found in _reader(embedder, ledger, captioner, batch_size).take(pictures):
            filler.offer(found)
        filler.write()
        behind.flush()
    return filler.report


def _as_sources(
    places: str | Path | AnySource | Iterable[str | Path | AnySource],
) -> Sequence[AnySource]:
    if isinstance(places, str | Path | PictureSource | SeriesSource):
        places = [places]
    places = list(places)
    paths = [place for place in places if isinstance(place, str | Path)]
    others = [place for place in places if not isinstance(place, str | Path)]
    return [FileSource(paths), *others] if paths else others


def _ledger(embedder: Embedder, index: Index) -> Ledger:
    check_same_model(index.info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim)
    return Ledger(index.origins())


def _reader(
    embedder: Embedder, ledger: Ledger, captioner: Captioner | None, batch_size: int
) -> Reader:
    return Reader(
        embedder,
        ledger,
        captions=captioner is not None,
        threads=min(os.cpu_count() or 1, _MOST_THREADS),
        ahead=_BATCHES_AHEAD * batch_size,
    )
