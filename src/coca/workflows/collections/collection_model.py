"""Open a collection together with the model that filled it, and search it."""

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from coca.core.config.execution import DEFAULT, Execution
from coca.core.errors import ModelError
from coca.model.shipped import FINGERPRINTS, is_shipped, shipped
from coca.predict.loading import load
from coca.predict.manifest import is_exported
from coca.predict.predictor import Predictor
from coca.predict.short_vectors import shorten
from coca.predict.text_embedder import TextEmbedder
from coca.search import stores
from coca.search.predictor import Embedder
from coca.search.query.engine import SearchEngine
from coca.search.records import CollectionInfo
from coca.search.store import Collection

E = TypeVar("E", bound=Embedder)


def fitted(model: E, info: CollectionInfo | None) -> E:
    """Return the model with vectors as short as those of a collection that it filled.

    Another model, or a collection of whole vectors, changes nothing.
    """
    if info is None or info.fingerprint != model.fingerprint:
        return model
    return shorten(model, info.embed_dim) if info.embed_dim < model.embed_dim else model


@contextmanager
def open_collection(
    model: Predictor,
    uri: str,
    collection: str | None = None,
    *,
    token: str = "",
    create: bool = False,
) -> Iterator[Collection]:
    """Open or create the collection of a model's vectors, and close its store at the end.

    Raises:
        SearchError: The collection is missing, or was filled by another model.
    """
    with stores.open_collection(
        uri,
        collection,
        token=token,
        embed_dim=model.embed_dim,
        fingerprint=model.fingerprint,
        model=lasting_name(model),
        create=create,
    ) as opened:
        yield opened


def infos_at(uri: str, *, token: str = "") -> dict[str, CollectionInfo]:
    """Describe the collections at a URI by name; none if there is no such file yet."""
    if stores.is_file(uri) and not os.path.exists(uri):
        return {}
    with stores.open_store(uri, token=token) as store:
        return {info.collection: info for info in store.list()}


def lasting_name(model: Predictor) -> str:
    """Return the name of a shipped model, else the absolute path of the model folder.

    A path of a shipped model would be valid for this installation only.
    """
    folder = os.path.abspath(model.source)
    names = {os.path.abspath(home): name for name, home in shipped().items()}
    return names.get(folder, folder)


def model_of(info: CollectionInfo) -> str:
    """Return the model to load for a collection.

    An exported model that filled the collection takes precedence over a shipped model with the
    collection's fingerprint, and that over the stored path.
    """
    if info.model and info.model not in FINGERPRINTS and is_exported(info.model):
        return info.model
    for name in shipped():
        if info.fingerprint == FINGERPRINTS.get(name):
            return name
    if info.model in FINGERPRINTS:
        raise ModelError(
            f"collection {info.collection!r} in {info.uri} was filled by an earlier edition of "
            f"{info.model} (fingerprint {info.fingerprint}), whose vectors do not compare with "
            f"those of today; embed its images again: coca reindex --model {info.model} "
            f"--uri {shlex.quote(info.uri)} --collection {shlex.quote(info.collection)}"
        )
    if info.model and Path(info.model).exists():
        return info.model
    filled_by = (
        f"by the model {info.model}, which no longer exists"
        if info.model
        else "by a model without a name"
    )
    raise ModelError(
        f"collection {info.collection!r} in {info.uri} was filled {filled_by}: name its folder by "
        f"--model; its fingerprint is {info.fingerprint}"
    )


@contextmanager
def open_search(
    uri: str,
    *,
    collection: str | None = None,
    token: str = "",
    model: Embedder | str | Path | None = None,
    fallback: Callable[[], str | Path | None] | None = None,
    execution: Execution = DEFAULT,
) -> Iterator[SearchEngine]:
    """Open a collection for search with the model that filled it, and close it at the end.

    Yields:
        The search engine.

    Raises:
        SearchError: The collection is missing, or was filled by another model.
        ModelError: The model cannot be loaded.
    """
    # The collection is opened first: that is fast, and its errors are raised at once.
    with stores.open_collection(uri, collection, token=token) as opened:
        if not isinstance(model, Embedder):
            name = model
            if name is None:
                try:
                    name = model_of(opened.info)
                except ModelError:
                    if fallback is None or (name := fallback()) is None:
                        raise
            model = fitted(load_embedder(name, execution), opened.info)
        yield SearchEngine(model, opened, image_reader=_image_reader)


def load_embedder(name: str | Path, execution: Execution = DEFAULT) -> Embedder:
    """Load a model that embeds queries; a shipped model embeds texts without torch."""
    if execution == DEFAULT and is_shipped(name):
        return TextEmbedder(str(name), lambda: load(name))
    return load(name, **vars(execution))


def text_embedder(model: Predictor) -> Predictor | TextEmbedder:
    """Return the embedder of texts of a shipped model, without torch; else the model itself."""
    name = lasting_name(model)
    if not is_shipped(name):
        return model
    embedder = TextEmbedder(name, lambda: model)
    short = model.embed_dim < embedder.embed_dim
    return shorten(embedder, model.embed_dim) if short else embedder


def _image_reader() -> Callable[[str, str], bytes]:
    """Return the reader of images of all sources; its import takes long."""
    from coca.workflows.collections.image_resolver import ImageResolver

    return ImageResolver()
