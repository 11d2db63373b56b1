"""Indexing workflow: embed images with a loaded model and upsert them into a collection."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from coca.core.errors import check_options
from coca.core.progress import ProgressMaker, silent
from coca.data.loading.loader import BadSampleLog
from coca.data.sample import BadSample
from coca.search.ingest.ingest_report import BadImage, IngestReport
from coca.search.ingest.pipeline import ingest
from coca.search.ingest.snapshot import PathCache
from coca.search.ingest.sources import AnySource
from coca.search.ingest.upsert import Captioner
from coca.search.ingest.vector_sample import sample_sources
from coca.search.milvus.collection import Collection
from coca.search.milvus.schema import CollectionSettings
from coca.search.records import WHOLE, CollectionInfo
from coca.search.vector_encoding import VectorEncoding
from coca.workflows.collections.collection_model import CollectionModel, open_collection
from coca.workflows.collections.image_sources import (
    FRAME_INTERVAL_S,
    check_filled,
    open_sources,
    resolve_uris,
)
from coca.workflows.collections.skipped_files import warn_of_skipped

MAX_BAD_FRACTION = 0.1
"""Default limit on the fraction of unreadable images; above it the source is likely at fault."""


class IndexSettings(TypedDict, total=False):
    """Options of indexing."""

    collection: str
    """Name of the collection; default: `pictures`."""
    token: str
    """`"user:password"` or an API key, if the server requires one; default: none."""
    encoding: VectorEncoding
    """Form in which a new collection stores vectors; default: that of `CollectionSettings`."""
    captions: bool
    """Generate captions for images that have none; default: True."""
    prune: bool
    """Delete the records of files that no longer exist in the sources; default: False."""
    prune_empty: bool
    """With `prune`: prune missing and empty folders too, which may be unmounted drives; default:
    False."""
    path_cache: PathCache | None
    """State shared by repeated runs, so that later runs read only changes; default: None."""
    bad_list: Path | None
    """JSON Lines file that lists unreadable images, each once; default: none."""
    max_bad_fraction: float
    """Maximum fraction of unreadable images among at least 1,000, 0 to 1; default: 0.1."""


@dataclass(frozen=True)
class IndexResult:
    """Result of `index_images`."""

    collection: CollectionInfo
    """Info of the collection after indexing."""
    report: IngestReport
    """Counts of added, changed, skipped and removed records."""


def index_images(
    uris: Sequence[str | Path],
    predictor: CollectionModel,
    *,
    uri: str,
    frame_interval_s: float = FRAME_INTERVAL_S,
    read_from: Sequence[str] = (),
    progress: ProgressMaker = silent,
    **settings: Unpack[IndexSettings],
) -> IndexResult:
    """Index images into a collection, created if missing.

    Unchanged images are neither read nor embedded again. Files of folders that are skipped, such as
    raw photos and zips, are counted in warnings.

    Args:
        uris: Folders, images, videos, tars (with `*` and braces, also in URLs), manifests (JSON
            Lines, CSV, Parquet), and zips with images and a table.
        predictor: Model that embeds the images; it must be the model of the collection.
        uri: Path that ends in `.db`, or address of a Milvus server.
        frame_interval_s: Interval between the frames of a video, in seconds; 0 skips videos.
        read_from: URL prefixes and folders that tables may reference; see
            `ManifestConfig.read_from`.
        progress: Optional progress callback.
        **settings: See `IndexSettings`.

    Raises:
        ConfigError: A source is of an unsupported kind, or a setting is unknown.
        DataError: A source is missing, all are empty, or too many images are unreadable.
        SearchError: The collection was filled by another model, or cannot be written.
    """
    check_options(settings, IndexSettings.__annotations__, of="indexing")
    prune = settings.get("prune", False)
    trust_empty = prune and settings.get("prune_empty", False)
    resolved = resolve_uris(uris, allow_missing=trust_empty)
    sources = open_sources(resolved, frame_interval_s=frame_interval_s, read_from=read_from)
    if not trust_empty:
        check_filled(resolved, sources, prune=prune)
    warn_of_skipped(resolved)
    return index_sources(sources, predictor, uri=uri, progress=progress, **settings)


def index_sources(
    sources: Sequence[AnySource],
    predictor: CollectionModel,
    *,
    uri: str,
    progress: ProgressMaker = silent,
    **settings: Unpack[IndexSettings],
) -> IndexResult:
    """Index images from open sources; otherwise as `index_images`."""
    check_options(settings, IndexSettings.__annotations__, of="indexing")
    with open_collection(
        predictor,
        uri,
        settings.get("collection", "pictures"),
        token=settings.get("token", ""),
        create=True,
        settings=CollectionSettings(encoding=settings.get("encoding", WHOLE)),
        basis=lambda count: sample_sources(
            sources, predictor, count, batch_size=predictor.batch_size, progress=progress
        ),
    ) as index:
        with counted_on_ctrl_c(index):
            report = ingest(
                sources,
                predictor,
                index,
                captioner=captioner(predictor) if settings.get("captions", True) else None,
                prune=settings.get("prune", False),
                prune_empty=settings.get("prune_empty", False),
                path_cache=settings.get("path_cache"),
                bad_log=BadImageLog(
                    settings.get("bad_list"), settings.get("max_bad_fraction", MAX_BAD_FRACTION)
                ),
                progress=progress,
                batch_size=predictor.batch_size,
            )
        return IndexResult(index.describe(), report)


@contextmanager
def counted_on_ctrl_c(index: Collection) -> Iterator[None]:
    """Report the number of images in the collection when Ctrl-C stops its indexing.

    Raises:
        KeyboardInterrupt: With that message. All finished batches are written.
    """
    try:
        yield
    except KeyboardInterrupt:
        found = index.describe()
        raise KeyboardInterrupt(
            f"stopped by Ctrl-C: {found.count:,} images are in collection {found.collection!r} of "
            f"{found.uri}; the same command goes on from there"
        ) from None


def captioner(predictor: CollectionModel) -> Captioner:
    """Wrap a predictor as the captioner of `ingest`."""
    return lambda images: [caption.text for caption in predictor.caption(images)]


class BadImageLog:
    """Counts and lists unreadable images, with the log of the training loader."""

    def __init__(self, path: Path | None, max_bad_fraction: float) -> None:
        self._log = BadSampleLog(path, max_bad_fraction)

    def add(self, good: int, bad: Sequence[BadImage]) -> None:
        """Record the good and bad images of a batch.

        Raises:
            DataError: More than `max_bad_fraction` of the images are bad.
        """
        self._log.add(
            good, [BadSample(one.path, one.path, 0, one.reason, one.detail) for one in bad]
        )
