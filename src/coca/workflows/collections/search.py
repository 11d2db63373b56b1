"""Search workflow: open a collection together with the model that filled it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from coca.core.progress import ProgressMaker, silent
from coca.search.milvus.collection import Collection
from coca.search.query.engine import Embedder, SearchEngine
from coca.search.query.in_memory import InMemoryIndex
from coca.search.query.rescored import RescoredIndex
from coca.search.query.searchable import Searchable
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
    rescore_by: str | None = None,
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
        rescore_by: Address of a collection of the same name with whole vectors, which rank the
            first hits; see `coca.search.query.rescored`.
        progress: Optional progress callback of reading vectors.

    Yields:
        The search engine.

    Raises:
        SearchError: The collection is missing, or was filled by another model.
        ModelError: The model cannot be loaded.
    """
    # The collection is opened first: that is fast, and its errors are raised at once.
    with ExitStack() as stack:
        index = stack.enter_context(Collection.open(uri, collection, token=token))
        if not isinstance(model, Embedder):
            name = choose_model(model, index.info, fallback=fallback, runtime=runtime)
            model = fitted(load_model(name, runtime=runtime, device=device), index.info)
        held: Searchable = InMemoryIndex(index, progress=progress) if resident else index
        if rescore_by is not None:
            whole = stack.enter_context(Collection.open(rescore_by, collection, token=token))
            held = RescoredIndex(held, whole)
        yield SearchEngine(model, held, image_reader=ImageResolver)
