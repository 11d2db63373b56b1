"""Joins a loaded model to a collection that is filled, and opens it for search."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coca.inference.loading import load, shipped
from coca.inference.predictor import Predictor
from coca.search.engine import SearchEngine
from coca.search.milvus import Index
from coca.search.records import CollectionInfo


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
