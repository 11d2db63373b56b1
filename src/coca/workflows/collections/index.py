"""Indexing workflow: embed images, or read their vectors, and upsert them into a collection."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

from coca.core.config.execution import CERTAIN
from coca.core.config.frozen_config import non_default
from coca.core.errors import ConfigError, SearchError
from coca.core.extras import require_installed
from coca.data.sample import BadSample, BadSampleLog
from coca.model.shipped import DEFAULT_MODEL
from coca.predict.loading import load, load_to_index
from coca.predict.predictor import Predictor
from coca.predict.short_vectors import shorten
from coca.processing.text_reader import TextReader
from coca.search import stores
from coca.search.ingest.encoding import Captioner, Encoder
from coca.search.ingest.ingest_report import BadLog, IngestReport
from coca.search.ingest.parquet import read_info
from coca.search.ingest.pipeline import ingest, ingest_vectors
from coca.search.ingest.sample_source import UnreadableFile
from coca.search.ingest.sources import ImageSource
from coca.search.records import CollectionInfo, check_same_model
from coca.search.store import DEFAULT_COLLECTION, Collection, default_collection
from coca.workflows.collections.collection_model import (
    fitted,
    lasting_name,
    model_of,
)
from coca.workflows.collections.image_sources import (
    check_filled,
    open_sources,
    resolve_uris,
    vectors_files,
)
from coca.workflows.collections.index_settings import IndexSettings
from coca.workflows.collections.skipped_files import describe_skipped, skipped_files
from coca.workflows.collections.watch import check_watchable, watch_folders

logger = logging.getLogger(__name__)

_BATCH_IMAGES, _OCR_IMAGES = 64, 8
"""Images of one transaction, and with OCR."""

ModelLoader: TypeAlias = Callable[[CollectionInfo | None], Callable[[], Predictor]]
"""Chooses the model to fill a collection with, and returns a function that loads it; None: the
collection does not exist yet. A model that is known not to fit is refused without loading it."""


@dataclass(frozen=True)
class IndexResult:
    """Result of `index_images`."""

    collection: CollectionInfo
    """Info of the collection after indexing."""
    report: IngestReport
    """Counts of added, changed, skipped and removed records."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Number of files in the folders that are not indexed, by suffix."""
    unreadable: tuple[str, ...] = ()
    """Tars and tables that are unreadable as a whole; the report lists them as bad too."""


def index(
    sources: str | Path | Sequence[str | Path],
    uri: str | Path = "coca.db",
    *,
    model: Predictor | str | Path | None = None,
    **options: Any,
) -> IndexResult:
    """Index folders, images, videos, tars and tables; the function of `coca index`.

        coca.index("photos", "photos.db")

    Unchanged images are neither read nor embedded again. For images in memory use
    `SearchEngine.add`.

    Args:
        sources: One or several paths or URLs, of any kind that `coca index` reads.
        uri: Path of a SQLite file, or address of Milvus; it is created if missing.
        model: A model of `coca.load` or its name; default: the model of the collection, else
            `everyday`.
        **options: Fields of `IndexSettings`.

    Raises:
        CocaError: As `index_images`.
    """
    listed = [sources] if isinstance(sources, str | Path) else sources
    if not isinstance(listed, Sequence) or not all(isinstance(it, str | Path) for it in listed):
        raise ConfigError(
            f"the sources must be paths, got {type(sources).__name__}: pass a folder, files, or a "
            "table with a column `image` (.csv, .parquet); images in memory go to SearchEngine.add"
        )
    if isinstance(model, Predictor):
        return index_images(listed, model, uri=uri, **options)

    def choose(info: CollectionInfo | None) -> Callable[[], Predictor]:
        name = model or (DEFAULT_MODEL if info is None else model_of(info))
        return lambda: load(name) if options.get("captions", True) else load_to_index(name)

    return index_images(listed, choose, uri=uri, **options)


def index_images(
    uris: Sequence[str | Path],
    model: Predictor | ModelLoader,
    *,
    uri: str | Path,
    watch: Callable[[IndexResult], None] | None = None,
    **options: Any,
) -> IndexResult:
    """Index images into a collection, created if missing.

    Later runs with a loader keep the `dimensions` of the collection.

    Unchanged images are neither read nor embedded again. Files of folders that are skipped, such as
    raw photos and zips, are counted in warnings.

    Returns:
        The result of the last run.

    Raises:
        ConfigError: A source is of an unsupported kind, or a setting is unknown or does not apply.
        DataError: A source is missing, all are empty, or too many images are unreadable.
        SearchError: The collection was filled by another model, or cannot be written.
    """
    settings = IndexSettings(**options)
    uri = stores.checked_uri(uri)
    trust_empty = settings.prune and settings.prune_empty
    if settings.ocr:
        # Before a model is loaded, and a collection is made.
        require_installed("rapidocr", extra="ocr")
    resolved = resolve_uris(uris, allow_missing=trust_empty)
    if files := vectors_files(resolved):
        idle = [*({*non_default(settings)} - {"collection", "token"}), *["watch"] * bool(watch)]
        if idle:
            raise ConfigError(
                f"{', '.join(sorted(idle))} apply to images, and these are vectors: leave them out"
            )
        return _index_vectors(files, uri, settings)
    if watch is not None:
        check_watchable(resolved)
        settings = settings.replace(prune=True)
    sources = open_sources(
        [] if watch else resolved,
        frame_interval_s=settings.frame_interval_s,
        read_from=settings.read_from or (),
    )
    if not (watch or trust_empty):
        # An empty source is an error, unless it is watched or its records are to be pruned.
        check_filled(resolved, sources, prune=settings.prune)
    skipped = skipped_files(resolved)
    for sentence in describe_skipped(skipped):
        logger.warning("%s", sentence)
    with _indexing(model, uri, settings) as index:
        if watch is None:
            return replace(index(sources), skipped=skipped)
        for result in watch_folders(resolved, index, frame_interval_s=settings.frame_interval_s):
            watch(replace(result, skipped=skipped))
        return replace(result, skipped=skipped)


def index_sources(
    sources: Sequence[ImageSource],
    predictor: Predictor,
    *,
    uri: str,
    **options: Any,
) -> IndexResult:
    """Index images from open sources; otherwise as `index_images`."""
    with _indexing(predictor, uri, IndexSettings(**options)) as index:
        return index(sources)


@contextmanager
def _indexing(
    model: Predictor | ModelLoader,
    uri: str,
    settings: IndexSettings,
) -> Iterator[Callable[[Sequence[ImageSource]], IndexResult]]:
    """Open or create the collection to fill; yield the function that indexes sources into it."""
    token, dimensions = settings.token, settings.dimensions
    name = settings.collection or DEFAULT_COLLECTION
    with ExitStack() as stack:
        store, info = None, None
        if not stores.is_file(uri) or os.path.exists(uri):
            store = stack.enter_context(stores.open_store(uri, token=token))
            if settings.collection is None:
                name = default_collection(store)
            info = store.open(name).info if store.has(name) else None
        if info is not None and dimensions is not None:
            check_same_model(info, fingerprint=info.fingerprint, embed_dim=dimensions)
        if info is None:
            stores.check_name(uri, name)
        given = model if isinstance(model, Predictor) else model(info)

        @cache
        def loaded() -> Predictor:
            whole = given if isinstance(given, Predictor) else given()
            return fitted(whole, info) if dimensions is None else shorten(whole, dimensions)

        if info is None:
            new = loaded()
            store = store or stack.enter_context(stores.open_store(uri, token=token, create=True))
            collection = stores.open_or_create(
                store,
                name,
                embed_dim=new.embed_dim,
                fingerprint=new.fingerprint,
                model=lasting_name(new),
            )
        else:
            assert store is not None
            collection = store.open(name)
            if isinstance(given, Predictor):
                check_same_model(info, fingerprint=given.fingerprint, embed_dim=loaded().embed_dim)
        yield partial(_index_into, collection, loaded, _writer(settings), settings)


def _index_into(
    collection: Collection,
    load: Callable[[], Predictor],
    writer: Captioner | None,
    settings: IndexSettings,
    sources: Sequence[ImageSource],
) -> IndexResult:
    encoder = Encoder(
        load,
        collection.info,
        captions=settings.captions,
        certainty=settings.certainty,
        captioner=writer,
    )
    with counted_on_ctrl_c(collection):
        report = ingest(
            sources,
            encoder,
            collection,
            text_reader=(lambda images: _text_reader()(images)) if settings.ocr else None,
            prune=settings.prune,
            prune_empty=settings.prune_empty,
            bad_log=bad_image_log(settings.bad_list, settings.max_bad_fraction),
            # The text of a page takes seconds, and the progress is that of whole batches.
            batch_size=_OCR_IMAGES if settings.ocr else _BATCH_IMAGES,
        )
    unreadable = [source.path for source in sources if isinstance(source, UnreadableFile)]
    return IndexResult(collection.describe(), report, unreadable=tuple(unreadable))


def _index_vectors(files: Sequence[Path], uri: str, settings: IndexSettings) -> IndexResult:
    """Insert Parquet files of embedded records."""
    infos = [read_info(file) for file in files]
    if len({info.fingerprint for info in infos}) > 1:
        models = ", ".join(sorted({f"{info.fingerprint} ({info.model})" for info in infos}))
        raise SearchError(
            f"the vectors are of several models: {models}; give each a folder of its own"
        )
    with stores.open_collection(
        uri,
        settings.collection,
        token=settings.token,
        embed_dim=infos[0].embed_dim,
        fingerprint=infos[0].fingerprint,
        model=infos[0].model,
        create=True,
    ) as collection:
        with counted_on_ctrl_c(collection):
            report = ingest_vectors(files, collection)
        return IndexResult(collection.describe(), report)


@contextmanager
def counted_on_ctrl_c(collection: Collection) -> Iterator[None]:
    """Report the number of images in the collection when Ctrl-C stops its indexing.

    Raises:
        KeyboardInterrupt: With that message. All finished batches are written.
    """
    try:
        yield
    except KeyboardInterrupt:
        info = collection.describe()
        raise KeyboardInterrupt(
            f"stopped by Ctrl-C: {info.count:,} images are in collection {info.collection!r} of "
            f"{info.uri}; the same command goes on from there"
        ) from None


_text_reader = cache(TextReader)
"""Loads the models of OCR, once for all runs of a watch."""


def _writer(settings: IndexSettings) -> Captioner | None:
    """Return the captioner of `captions_from`, whose model is loaded at the first caption."""
    given = settings.captions_from
    if given is None or not settings.captions:
        return None

    @cache
    def writer() -> Captioner:
        model = load(given) if isinstance(given, str | Path) else given
        return captioner(model, settings.certainty)

    return lambda images: writer()(images)


def captioner(predictor: Predictor, certainty: float = CERTAIN) -> Captioner:
    """Wrap a predictor as the captioner of `ingest`; `certainty` is that of `IndexSettings`."""
    if not predictor.has_decoder:
        raise ConfigError(
            f"{predictor.source} has no decoder that writes captions; use a CoCa model for them, "
            "such as everyday"
        )
    return lambda images: [one.certain(certainty) for one in predictor.caption(images)]


def bad_image_log(path: Path | None, max_bad_fraction: float) -> BadLog:
    """Count unreadable images, and list them in a file, with the log of the training loader."""
    log = cache(lambda: BadSampleLog(path, max_bad_fraction))
    return lambda good, bad: log().add(
        good, [BadSample(image.path, image.path, 0, image.reason, image.detail) for image in bad]
    )
