"""Fills a collection with the pictures of folders, tars and tables, by a loaded model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coca.core.progress import ProgressMaker, silent
from coca.data.bad_samples import BadSampleLog
from coca.data.sample import BadSample
from coca.inference.predictor import Predictor
from coca.search.filler import Captioner
from coca.search.ingest import ingest
from coca.search.milvus import Index
from coca.search.records import CollectionInfo
from coca.search.report import BadPicture, IngestReport
from coca.workflows.picture_sources import EVERY_S, sources_of

MAX_BAD_FRACTION = 0.1
"""Above that share of bad pictures something is wrong with the place, and not with pictures."""


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
    collection: str = "pictures",
    token: str = "",
    captions: bool = True,
    prune: bool = False,
    every_s: float = EVERY_S,
    bad_list: Path | None = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    progress: ProgressMaker = silent,
) -> FillResult:
    """Puts pictures into a collection, which is made if it is missing.

    What is there already and has not changed is neither read nor embedded again.

    Args:
        places: Folders, pictures, videos, tars and tables; see `sources_of`.
        predictor: The model that the collection belongs to.
        uri: Path that ends in `.db`, or address of a Milvus server.
        collection: Name within that place.
        token: `"user:password"` or a key, for servers that want one.
        captions: Let the model write the captions of pictures that come without one.
        prune: Remove records of what is gone from these places.
        every_s: Seconds from one frame of a video to the next; 0 leaves videos out.
        bad_list: File of JSON lines that lists bad pictures, each once.
        max_bad_fraction: Largest share of bad pictures among at least a thousand, 0 to 1.
        progress: Shows how far it is.

    Raises:
        ConfigError: A place holds nothing that can be indexed.
        DataError: A place is missing, or too many pictures are bad.
        SearchError: The collection belongs to another model, or cannot be written.
    """
    sources = sources_of(places, every_s=every_s)
    with Index.open(
        uri,
        collection,
        token=token,
        embed_dim=predictor.embed_dim,
        fingerprint=predictor.fingerprint,
        model=predictor.source,
        create=True,
    ) as index:
        report = ingest(
            sources,
            predictor,
            index,
            captioner=captioner(predictor) if captions else None,
            prune=prune,
            bad_log=BadPictureLog(bad_list, max_bad_fraction),
            progress=progress,
            batch_size=predictor.batch_size,
        )
        return FillResult(index.describe(), report)


def captioner(predictor: Predictor) -> Captioner:
    """The model as what `ingest` asks for captions."""
    return lambda pictures: [caption.text for caption in predictor.caption(pictures)]


class BadPictureLog:
    """Counts and lists bad pictures as the loader of a training run does its samples."""

    def __init__(self, path: Path | None, max_bad_fraction: float) -> None:
        self._log = BadSampleLog(path, max_bad_fraction)

    def add(self, good: int, bad: Sequence[BadPicture]) -> None:
        """Take note of what a batch brought.

        Raises:
            DataError: More than `max_bad_fraction` of the pictures are bad.
        """
        self._log.add(
            good, [BadSample(one.path, one.path, 0, one.reason, one.detail) for one in bad]
        )
