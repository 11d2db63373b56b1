"""Sample vectors of a future collection, from which its encoding is computed.

Each function returns up to `count` vectors of length 1, spread over all images. An unreadable image
is left out. The ingest embeds the images of the sample again.

Dimensions: S sample vectors, E embedding.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.core.progress import ProgressMaker, silent
from coca.search.ingest.parquet import read_info, read_vectors
from coca.search.ingest.prefetch import embed_each
from coca.search.ingest.sources import AnySource, Entry, SeriesSource
from coca.search.milvus.collection import Collection
from coca.search.predictor import Embedder
from coca.search.query.originals import ImageOpener, read_original
from coca.search.records import Record, batches


def sample_sources(
    sources: Sequence[AnySource],
    embedder: Embedder,
    count: int,
    *,
    batch_size: int = 64,
    progress: ProgressMaker = silent,
) -> Float32[np.ndarray, "S E"]:
    """Embed a sample of the images of sources; of a video, its first frames."""
    entries = [(source, entry) for source in sources for entry in source.entries()]
    chosen = entries[:: max(1, len(entries) // count)]
    frames = max(1, count // max(1, len(chosen)))
    images = (image for source, entry in chosen for image in _images(source, entry, frames))
    return _embedded(islice(images, count), embedder, count, batch_size, progress)


def sample_originals(
    source: Collection,
    embedder: Embedder,
    count: int,
    *,
    open_image: ImageOpener,
    batch_size: int = 64,
    progress: ProgressMaker = silent,
) -> Float32[np.ndarray, "S E"]:
    """Embed a sample of a collection's images with another model."""

    def images() -> Iterator[bytes]:
        for record in sorted(_records(source, count), key=lambda record: record.path):
            with suppress(DataError):
                yield read_original(record, open_image)

    return _embedded(images(), embedder, count, batch_size, progress)


def sample_collection(source: Collection, count: int) -> Float32[np.ndarray, "S E"]:
    """Read the vectors of a sample of a collection's images."""
    vectors = [record.vector for record in _records(source, count)]
    return np.stack(vectors) if vectors else _none(source.info.embed_dim)


def sample_files(files: Sequence[str | Path], count: int) -> Float32[np.ndarray, "S E"]:
    """Read the first vectors of each vectors file."""
    each = -(-count // len(files))
    vectors = [one.vector for file in files for one in islice(read_vectors(file), each)]
    return np.stack(vectors[:count]) if vectors else _none(read_info(files[0]).embed_dim)


def _records(source: Collection, count: int) -> Iterable[Record]:
    # An id is a hash of the image, so the first ids are a random sample.
    return source.get(sorted(source.ids())[:count]).values()


def _images(source: AnySource, entry: Entry, frames: int) -> Iterator[bytes]:
    with suppress(DataError):
        if isinstance(source, SeriesSource):
            yield from (image.data for image in islice(source.series(entry), frames))
        else:
            yield source.read(entry).data


def _embedded(
    images: Iterable[bytes],
    embedder: Embedder,
    count: int,
    batch_size: int,
    progress: ProgressMaker,
) -> Float32[np.ndarray, "S E"]:
    rows = []
    with progress("embed a sample", count) as bar:
        for batch in batches(images, batch_size):
            rows += [one for one in embed_each(embedder, batch) if not isinstance(one, DataError)]
            bar.advance(len(batch))
    return np.stack(rows) if rows else _none(embedder.embed_dim)


def _none(embed_dim: int) -> Float32[np.ndarray, "S E"]:
    return np.zeros((0, embed_dim), np.float32)
