"""Search workflow: open a collection together with the model that filled it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coca.core.progress import ProgressMaker, silent
from coca.search.milvus.collection import Collection
from coca.search.query.engine import Embedder, SearchEngine
from coca.search.query.in_memory import InMemoryIndex
from coca.workflows.collections.collection_model import Runtime, choose_model, fitted, load_model
from coca.workflows.collections.image_resolver import ImageResolver


@contextmanager
def open_search(
    uri: str,
    *,
    collection: str = "pictures",
    token: str = "",
    model: Embedder | str | Path | None = None,
    fallback: Callable[[], str | Path | None] | None = None,
    device: str | None = None,
    runtime: Runtime | None = None,
    resident: bool = False,
    progress: ProgressMaker = silent,
) -> Iterator[SearchEngine]:
    """Open a collection for search with the model that filled it, and close it at the end.

    Args:
        uri: Path that ends in `.db`, or address of a Milvus server.
        collection: Name of the collection.
        token: `"user:password"` or an API key, if the server requires one.
        model: A loaded model or a folder; default: the model of the collection.
        fallback: Returns the model to load if the collection's model is missing, or None if there
            is none. It may raise an error with further advice.
        device: Torch device of a model that is loaded; see `coca.load`.
        runtime: `torch`, or `onnx` for an exported model, without torch. Default: `onnx` for a
            folder that `coca export --format onnx` wrote.
        resident: Load all vectors into memory for exact search.
        progress: Optional progress callback of reading vectors.

    Yields:
        The search engine.

    Raises:
        SearchError: The collection is missing, or was filled by another model.
        ModelError: The model cannot be loaded.
    """
    # The collection is opened first: that is fast, and its errors are raised at once.
    with Collection.open(uri, collection, token=token) as index:
        if not isinstance(model, Embedder):
            name = choose_model(model, index.info, fallback=fallback, runtime=runtime)
            model = fitted(load_model(name, runtime=runtime, device=device), index.info)
        held = InMemoryIndex(index, progress=progress) if resident else index
        yield SearchEngine(model, held, image_reader=ImageResolver)
