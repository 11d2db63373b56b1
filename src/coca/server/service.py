"""Service: the open collections, the served model and the images of items."""

import logging
import threading
import time
from collections.abc import Collection as AnyOf
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from coca.core.config.execution import DEFAULT, Execution
from coca.core.errors import CocaError, ConfigError, DataError
from coca.core.files.local_files import file_etag
from coca.predict.loading import load
from coca.predict.predictor import Predictor
from coca.processing.text_reader import TextReader
from coca.search.filters import where
from coca.search.query.engine import SearchEngine
from coca.search.query.originals import read_original
from coca.search.records import PATH, CollectionInfo, Record, check_same_model, series_of
from coca.search.search_options import SearchOptions
from coca.search.store import Collection, default_collection
from coca.search.stores import open_or_create, open_store
from coca.server.audit import AuditLog
from coca.server.collections.catalog import Catalog
from coca.server.collections.served_collection import ServedCollection, thumbnail_key
from coca.server.errors import ServiceError
from coca.server.images.decoding.decoder import Decoder, ProcessDecoder
from coca.server.images.uploads import Thumbnails, Uploads
from coca.server.keys import KeyConfig, KeyFile, KeyRing
from coca.server.places import Places
from coca.server.served_model import ServedModel
from coca.server.settings import ServerSettings
from coca.workflows.collections.collection_model import (
    fitted,
    lasting_name,
    model_of,
)
from coca.workflows.collections.image_resolver import ImageResolver

logger = logging.getLogger(__name__)


class Service:
    """State of the running service, shared by all requests; thread-safe."""

    def __init__(
        self,
        collections: Sequence[Collection],
        predictor: Predictor,
        settings: ServerSettings,
        *,
        decoder: Decoder | None = None,
        keys: Mapping[str, KeyConfig] | None = None,
        key_file: KeyFile | None = None,
    ) -> None:
        """Join open collections to the model that filled them; `close` ends the threads."""
        self.settings = settings
        if not predictor.reads_pixels:
            raise ConfigError(
                f"{predictor.source} reads files by its own library, and the service decodes them "
                "in processes of its own: use `coca index` and `coca search` with it"
            )
        self.text_reader = TextReader() if settings.ocr else None
        # Threads and processes start after all checks, since nothing would end them.
        for collection in collections:
            check_same_model(
                collection.info, fingerprint=predictor.fingerprint, embed_dim=predictor.embed_dim
            )
        served = {collection.info.collection for collection in collections}
        self.keys = KeyRing(
            (keys or {}) if key_file is None else key_file.keys,
            check=partial(_check_key, served),
            file=key_file,
        )
        self.places = Places(timeout_s=settings.request_timeout_s)
        self.audit = AuditLog(settings.audit_log)
        self.decoder = decoder or ProcessDecoder(
            predictor.image_settings,
            max_pixels=settings.max_pixels,
            timeout_s=settings.decode_timeout_s,
        )
        self.model = ServedModel(predictor, self.decoder, settings)
        self.thumbnails = Thumbnails(settings.thumbnails, self.decoder)
        self.uploads = Uploads(settings.uploads, collections[0].info.uri)
        self._resolvers = threading.local()
        self._reader: threading.Thread | None = None
        self._to_read: list[str] = []
        self._closing = threading.Event()
        self.collections = {
            collection.info.collection: ServedCollection(
                collection.info.collection,
                collection,
                SearchEngine(self.model, collection, image_reader=self._resolver),
                Catalog(collection, partial(self._remove_thumbnails, collection.info)),
            )
            for collection in collections
        }
        for path in self.uploads.unfinished(self.collections):
            self.remove_upload(path)

    @property
    def reading(self) -> int:
        """Number of collections that are still being read ahead."""
        return len(self._to_read)

    def read_ahead(self) -> None:
        """Read in the background what the first list and the first query need of all items."""
        if self._reader is None:
            self._to_read = list(self.collections)
            self._reader = threading.Thread(target=self._read, name="read-ahead", daemon=True)
            self._reader.start()

    def delete(self, served: ServedCollection, id: str) -> None:
        """Delete an item with its thumbnails, and the file of an upload without another item."""
        with served.writing():
            stored = served.collection.get([id])
            served.collection.delete(stored)
            for record in stored.values():
                self.thumbnails.remove(served.thumbnail_key(id, record.content))
                self.remove_upload(record.path)

    def remove_upload(self, path: str) -> None:
        """Delete the file of an upload, unless an item of a served collection refers to it."""
        if self.uploads.contains(path):
            served = self.collections.values()
            if not any(each.collection.count(where(PATH, "==", path)) for each in served):
                self.uploads.remove(path)

    def _read(self) -> None:
        while self._to_read and not self._closing.is_set():
            served = self.collections[self._to_read[0]]
            began_s = time.monotonic()
            try:
                count = served.catalog.read()
                # A file is then in memory for its scan.
                one = np.eye(1, served.collection.info.embed_dim, dtype=np.float32)
                served.collection.nearest(one, SearchOptions(limit=1))
            except CocaError as error:
                logger.warning("collection %r could not be read ahead: %s", served.name, error)
            else:
                took_s = time.monotonic() - began_s
                logger.info("%s items of %s read in %.1f s", f"{count:,}", served.name, took_s)
            del self._to_read[0]

    def original(self, record: Record) -> bytes:
        """Read the encoded image of an item."""
        try:
            return read_original(record, self._resolver())
        except DataError as error:
            raise ServiceError(
                f"the image of item {record.id!r} cannot be read any more",
                status=404,
                code="no_such_image",
            ) from error

    def video(self, record: Record) -> str:
        """Return the file of a frame's video, unless it has changed since it was indexed."""
        file = series_of(record.path, record.origin.etag)
        if file == record.path or not record.origin.etag.startswith(f"{file_etag(file)}/"):
            raise ServiceError(
                f"the video of item {record.id!r} cannot be read",
                status=404,
                code="no_such_video",
            )
        return file

    def close(self) -> None:
        """End the reading, and the threads of the model."""
        self._closing.set()
        if self._reader is not None:
            self._reader.join()
        self.model.close()
        self.audit.close()

    def _remove_thumbnails(self, info: CollectionInfo, images: AnyOf[tuple[str, str]]) -> None:
        for id, content in images:
            self.thumbnails.remove(thumbnail_key(info, id, content))

    def _resolver(self) -> ImageResolver:
        """Return the resolver of this thread, which keeps its last tar or video open."""
        if not hasattr(self._resolvers, "own"):
            self._resolvers.own = ImageResolver()
        resolver: ImageResolver = self._resolvers.own
        return resolver


def _check_key(served: AnyOf[str], key: KeyConfig) -> None:
    for name in key.collections:
        if name not in served:
            raise ConfigError(
                f"the key {key.name!r} names collection {name!r}, which is not served: "
                f"add --collection {name}"
            )


@contextmanager
def open_service(
    uri: str,
    collections: Sequence[str] | None,
    settings: ServerSettings,
    *,
    token: str = "",
    model: Predictor | str | Path | None = None,
    execution: Execution = DEFAULT,
    create: bool = False,
    keys: Mapping[str, KeyConfig] | None = None,
    key_file: KeyFile | None = None,
) -> Iterator[Service]:
    """Open collections together with the model that filled them, and close them at the end.

    None is the default collection of the store; see `default_collection`.
    """
    if collections is not None and not collections:
        raise ConfigError("there is no collection to serve: name at least one")
    if create and model is None:
        raise ConfigError("a model must be named to create collections: pass --model")
    with ExitStack() as stack:
        store = stack.enter_context(open_store(uri, token=token, create=create))
        if collections is None:
            collections = [default_collection(store)]
        if create:
            assert model is not None
            predictor = _loaded(model, execution)
            made: dict[str, Any] = {
                "embed_dim": predictor.embed_dim,
                "fingerprint": predictor.fingerprint,
                "model": lasting_name(predictor),
            }
            opened = [open_or_create(store, name, **made) for name in collections]
        else:
            # The collections are opened first: that is fast, and its errors are raised at once.
            opened = [store.open(name) for name in collections]
            info = opened[0].info
            named = model_of(info) if model is None else model
            predictor = fitted(_loaded(named, execution), info)
        service = Service(opened, predictor, settings, keys=keys, key_file=key_file)
        stack.callback(service.close)
        yield service


def _loaded(model: Predictor | str | Path, execution: Execution) -> Predictor:
    return load(model, **vars(execution)) if isinstance(model, str | Path) else model
