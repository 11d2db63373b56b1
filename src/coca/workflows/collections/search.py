"""Joins a loaded model to a collection that is filled, and searches in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coca.core.errors import ModelError
from coca.core.progress import ProgressMaker, silent
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.search.milvus.collection import Collection
from coca.search.query.engine import SearchEngine
from coca.search.query.in_memory import InMemoryIndex
from coca.search.records import CollectionInfo
from coca.workflows.collections.collection_model import model_of
from coca.workflows.collections.image_resolver import PathReader


@contextmanager
def open_search(
    uri: str,
    *,
    collection: str = "pictures",
    token: str = "",
    model: Predictor | str | Path | None = None,
    fallback: Callable[[], str | Path | None] | None = None,
    device: str | None = None,
    resident: bool = False,
    progress: ProgressMaker = silent,
) -> Iterator[SearchEngine]:
    """Opens a collection for search with the model that filled it; closes it at the end.

    Args:
        uri: Path that ends in `.db`, or address of a Milvus server.
        collection: Name within that place.
        token: `"user:password"` or a key, for servers that want one.
        model: A loaded model or a folder; by default the one that the collection names.
        fallback: Names a model to load if the collection's is not there, or None if there is none;
            it may raise to say what else to do.
        device: Where a model that is loaded goes; see `coca.load`.
        resident: Read all vectors into memory, and answer exactly from there.
        progress: Shows how far reading is.

    Yields:
        The engine.

    Raises:
        SearchError: The collection is missing, or was filled by another model.
        ModelError: The model cannot be loaded.
    """
    # The collection first: it opens in a moment, and what is wrong with it is told at once.
    with Collection.open(uri, collection, token=token) as index:
        if not isinstance(model, Predictor):
            model = load(model or _model_of(index.info, fallback), device=device)
        held = InMemoryIndex(index, progress=progress) if resident else index
        yield SearchEngine(model, held, picture_reader=PathReader)


def _model_of(info: CollectionInfo, fallback: Callable[[], str | Path | None] | None) -> str | Path:
    try:
        return model_of(info)
    except ModelError:
        if fallback is not None and (named := fallback()) is not None:
            return named
        raise
