import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from jaxtyping import Float32

from coca.core.errors import DataError, SearchError
from coca.search.milvus.catalog import drop_collection
from coca.search.milvus.collection import Collection
from coca.search.milvus.connection import Connection
from coca.search.milvus.lite import is_lite
from coca.search.milvus.schema import has_collection
from coca.search.records import Record

DIM = 16
SHARED = "coca_tests"
ETCD_ATTEMPTS = 2

_T = TypeVar("_T")


class StandIn:
    """Fake model: equal bytes and texts get equal vectors, b"bad.." is not an image."""

    def __init__(self, fingerprint: str = "model-one", embed_dim: int = DIM) -> None:
        self.fingerprint = fingerprint
        self.embed_dim = embed_dim
        self.embedded: list[bytes] = []

    def embed_images(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        if any(image.startswith(b"bad") for image in images):
            raise DataError("this is not an image", reason="not_an_image")
        self.embedded.extend(images)
        return np.stack([self.direction(image) for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        return np.stack([self.direction(text.encode()) for text in texts])

    def direction(self, data: bytes) -> Float32[np.ndarray, " E"]:
        seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
        vector = np.random.default_rng(seed).standard_normal(self.embed_dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture
def embedder() -> StandIn:
    return StandIn()


@pytest.fixture
def make_record(embedder: StandIn) -> Callable[..., Record]:
    """Build records whose vector depends on their name."""

    def make(name: str, **fields: Any) -> Record:
        fields.setdefault("vector", embedder.direction(name.encode()))
        return Record(id=name, path=f"/pictures/{name}.jpg", **fields)

    return make


@pytest.fixture(params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI for collections; each test that uses it runs on Lite and on a server."""
    if request.param == "lite":
        return str(tmp_path / "pictures.db")
    return str(request.getfixturevalue("milvus_server"))


def _patiently(act: Callable[[], _T]) -> _T:
    """Create or drop a collection, again if the server's own store did not answer it in time."""
    for _ in range(ETCD_ATTEMPTS):
        try:
            return act()
        except SearchError as error:
            if "etcdserver: request timed out" not in str(error):
                raise
    return act()


@pytest.fixture
def make_index(uri: str) -> Iterator[Callable[..., Collection]]:
    """Open or create the collection of this test, initially empty."""
    opened: list[Collection] = []

    def make(**changes: Any) -> Collection:
        settings: dict[str, Any] = {
            "collection": SHARED,
            "embed_dim": DIM,
            "fingerprint": "model-one",
            "model": "runs/one",
            "create": True,
        }
        opened.append(Collection.open(uri, **(settings | changes)))
        return opened[-1]

    if not is_lite(uri):
        # A server takes seconds to create a collection, so its tests share one.
        with _patiently(make) as shared:
            shared.delete(shared.ids())
            # Orphaned captions of killed writers.
            shared.repair()
    yield make
    made = {collection.info.collection for collection in opened} - {SHARED}
    for collection in opened:
        collection.close()
    if made:
        connection = Connection(uri, create=False)
        for name in sorted(made):
            _patiently(partial(_drop, connection, name))
        connection.close()


def _drop(connection: Connection, collection: str) -> None:
    """Drop a collection if it is there; an attempt that timed out may have dropped it."""
    if has_collection(connection, collection):
        drop_collection(connection, collection)


@pytest.fixture
def fresh() -> str:
    """Collection name unique to this test."""
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def collection(make_index: Callable[..., Collection]) -> Collection:
    return make_index()
