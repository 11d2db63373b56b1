"""Fills a collection with images from anywhere, by a loaded model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from coca.core.errors import check_options
from coca.core.progress import ProgressMaker, silent
from coca.data.loading.bad_samples import BadSampleLog
from coca.data.sample import BadSample
from coca.inference.predictor import Predictor
from coca.search.ingest.pipeline import ingest
from coca.search.ingest.planner import Captioner
from coca.search.ingest.report import BadPicture, IngestReport
from coca.search.ingest.snapshot import PathCache
from coca.search.ingest.sources import AnySource
from coca.search.milvus.collection import Collection
from coca.search.records import CollectionInfo
from coca.workflows.collections.collection_model import lasting_name
from coca.workflows.collections.image_sources import EVERY_S, check_filled, sources_of

MAX_BAD_FRACTION = 0.1
"""Above that share of bad images something is wrong with the place, and not with images."""


class FillSettings(TypedDict, total=False):
    """What may be said about a filling."""

    collection: str
    """Name within the place; `pictures` by default."""
    token: str
    """`"user:password"` or a key, for servers that want one."""
    captions: bool
    """Let the model write the captions of images that come without one; by default it does."""
    prune: bool
    """Remove records of what is gone from these places."""
    prune_empty: bool
    """Also of folders in which nothing is left, whose drive may not be mounted."""
    copies: PathCache | None
    """The same in each of several fillings, so that later ones read only what changed."""
    bad_list: Path | None
    """File of JSON lines that lists bad images, each once."""
    max_bad_fraction: float
    """Largest share of bad images among at least a thousand, 0 to 1."""


@dataclass(frozen=True)
class FillResult:
    """What `index_pictures` did."""

    collection: CollectionInfo
    """The collection as it is now."""
    report: IngestReport
    """What was added, changed, left out and removed."""


def index_pictures(
    places: Sequence[str | Path],
    predictor: Predictor,
    *,
    uri: str,
    every_s: float = EVERY_S,
    read_from: Sequence[str] = (),
    progress: ProgressMaker = silent,
    **settings: Unpack[FillSettings],
) -> FillResult:
    """Puts images into a collection, which is made if it is missing.

    What is there already and has not changed is neither read nor embedded again.

    Args:
        places: Folders, images, videos, tars and tables; see `sources_of`.
        predictor: The model that the collection belongs to.
        uri: Path that ends in `.db`, or address of a Milvus server.
        every_s: Seconds from one frame of a video to the next; 0 leaves videos out.
        read_from: What tables may name besides; see `SourceConfig.read_from`.
        progress: Shows how far it is.
        **settings: See `FillSettings`.

    Raises:
        ConfigError: A place is of a kind that cannot be indexed, or a setting is unknown.
        DataError: A place is missing, nothing is in any of them, or too many images are bad.
        SearchError: The collection belongs to another model, or cannot be written.
    """
    check_options(settings, FillSettings.__annotations__, of="indexing")
    sources = sources_of(places, every_s=every_s, read_from=read_from)
    prune = settings.get("prune", False)
    if not (prune and settings.get("prune_empty")):
        check_filled(places, sources, prune=prune)
    return fill_collection(sources, predictor, uri=uri, progress=progress, **settings)


def fill_collection(
    sources: Sequence[AnySource],
    predictor: Predictor,
    *,
    uri: str,
    progress: ProgressMaker = silent,
    **settings: Unpack[FillSettings],
) -> FillResult:
    """As `index_pictures`, from sources that are open already."""
    check_options(settings, FillSettings.__annotations__, of="indexing")
    with Collection.open(
        uri,
        settings.get("collection", "pictures"),
        token=settings.get("token", ""),
        embed_dim=predictor.embed_dim,
        fingerprint=predictor.fingerprint,
        model=lasting_name(predictor),
        create=True,
    ) as index:
        report = ingest(
            sources,
            predictor,
            index,
            captioner=captioner(predictor) if settings.get("captions", True) else None,
            prune=settings.get("prune", False),
            prune_empty=settings.get("prune_empty", False),
            copies=settings.get("copies"),
            bad_log=BadPictureLog(
                settings.get("bad_list"), settings.get("max_bad_fraction", MAX_BAD_FRACTION)
            ),
            progress=progress,
            batch_size=predictor.batch_size,
        )
        return FillResult(index.describe(), report)


def captioner(predictor: Predictor) -> Captioner:
    """The model as what `ingest` asks for captions."""
    return lambda pictures: [caption.text for caption in predictor.caption(pictures)]


class BadPictureLog:
    """Counts and lists bad images as the loader of a training run does its samples."""

    def __init__(self, path: Path | None, max_bad_fraction: float) -> None:
        self._log = BadSampleLog(path, max_bad_fraction)

    def add(self, good: int, bad: Sequence[BadPicture]) -> None:
        """Take note of what a batch brought.

        Raises:
            DataError: More than `max_bad_fraction` of the images are bad.
        """
        self._log.add(
            good, [BadSample(one.path, one.path, 0, one.reason, one.detail) for one in bad]
        )
