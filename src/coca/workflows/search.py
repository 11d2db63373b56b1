"""Joins a loaded model to a collection: filling it with pictures, and opening it for search."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coca.core.progress import ProgressMaker, silent
from coca.inference.loading import load, shipped
from coca.inference.predictor import Predictor
from coca.search.engine import SearchEngine
from coca.search.filler import Captioner, IngestReport
from coca.search.ingest import ingest
from coca.search.milvus import Index
from coca.search.records import CollectionInfo


@dataclass(frozen=True)
class FillResult:
    """What `index_folders` did."""

    collection: CollectionInfo
    """The collection as it is now."""
    report: IngestReport
    """What was added, changed, left out and removed."""


def index_folders(
    paths: Sequence[str | Path],
    predictor: Predictor,
    *,
    uri: str,
    collection: str = "pictures",
    token: str = "",
    captions: bool = True,
    prune: bool = False,
    progress: ProgressMaker = silent,
) -> FillResult:
    """Puts the pictures of folders into a collection, which is made if it is missing.

    What is there already and has not changed is neither read nor embedded again.

    Args:
        paths: Folders, searched through, and single files.
        predictor: The model that the collection belongs to.
        uri: Path that ends in `.db`, or address of a Milvus server.
        collection: Name within that place.
        token: `"user:password"` or a key, for servers that want one.
        captions: Let the model write the captions of pictures that come without one.
        prune: Remove records of files that are gone from these folders.
        progress: Shows how far it is.

    Raises:
        DataError: A path does not exist.
        SearchError: The collection belongs to another model, or cannot be written.
    """
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
            paths,
            predictor,
            index,
            captioner=captioner(predictor) if captions else None,
            prune=prune,
            progress=progress,
            batch_size=predictor.batch_size,
        )
        return FillResult(index.describe(), report)


def captioner(predictor: Predictor) -> Captioner:
    """The model as what `ingest` asks for captions."""
    return lambda pictures: [caption.text for caption in predictor.caption(pictures)]


@contextmanager
def open_search(
    uri: str,
    *,
    collection: str = "pictures",
    token: str = "",
    model: Predictor | str | Path | None = None,
    fallback: Callable[[], str | Path] | None = None,
    device: str | None = None,
) -> Iterator[SearchEngine]:
    """Opens a collection for search with the model that filled it; closes it at the end.

    Args:
        uri: Path that ends in `.db`, or address of a Milvus server.
        collection: Name within that place.
        token: `"user:password"` or a key, for servers that want one.
        model: A loaded model or a folder; by default the folder that the collection names.
        fallback: Names a folder to load if the collection's is not there; it may raise to say
            what else to do. Default: the collection's is loaded in any case.
        device: Where a model that is loaded goes; see `coca.load`.

    Yields:
        The engine.

    Raises:
        SearchError: The collection is missing, or was filled by another model.
        ModelError: The model cannot be loaded.
    """
    # The collection first: it opens in a moment, and what is wrong with it is told at once.
    with Index.open(uri, collection, token=token) as index:
        if not isinstance(model, Predictor):
            folder = model or _folder_of(index.info, fallback)
            model = load(folder, device=device)
        yield SearchEngine(model, index)


def _folder_of(info: CollectionInfo, fallback: Callable[[], str | Path] | None) -> str | Path:
    there = bool(info.model) and (Path(info.model).is_dir() or info.model in shipped())
    if fallback is not None and not there:
        return fallback()
    return info.model
