"""Search workflow: open a collection together with the model that filled it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from coca.core.errors import ConfigError, ModelError
from coca.core.progress import ProgressMaker, silent
from coca.runtime.files import is_exported
from coca.runtime.predictor import load as load_exported
from coca.search.milvus.collection import Collection
from coca.search.query.engine import Embedder, SearchEngine
from coca.search.query.in_memory import InMemoryIndex
from coca.search.query.originals import ImageOpener
from coca.search.records import CollectionInfo

# Modules that import torch are imported by functions: an exported model does not need it.


Runtime: TypeAlias = Literal["torch", "onnx"]
"""Library that runs a model."""


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
            model = _load(model, index.info, fallback, device, runtime)
        held = InMemoryIndex(index, progress=progress) if resident else index
        yield SearchEngine(model, held, image_reader=_image_reader)


def _load(
    name: str | Path | None,
    info: CollectionInfo,
    fallback: Callable[[], str | Path | None] | None,
    device: str | None,
    runtime: Runtime | None,
) -> Embedder:
    if runtime == "onnx" or (runtime is None and name is not None and is_exported(name)):
        if device is not None:
            raise ConfigError(f"--device {device} is for torch, and the runtime is onnx")
        name = name or (fallback() if fallback is not None else None)
        if name is None:
            raise ConfigError("--runtime onnx needs an exported model: name its folder by --model")
        return load_exported(name)
    from coca.inference.loading import load

    return load(name or _model_of(info, fallback), device=device)


def _image_reader() -> ImageOpener:
    from coca.workflows.collections.image_resolver import ImageResolver

    return ImageResolver()


def _model_of(info: CollectionInfo, fallback: Callable[[], str | Path | None] | None) -> str | Path:
    from coca.workflows.collections.collection_model import model_of

    try:
        return model_of(info)
    except ModelError:
        if fallback is not None and (named := fallback()) is not None:
            return named
        raise
