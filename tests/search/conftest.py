import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.search.milvus import Index
from coca.search.records import Record
from coca.search.schema import drop_collection

DIM = 16


class StandIn:
    """Stands in for a model: equal bytes and texts get equal vectors, b"bad.." is no picture."""

    def __init__(self, fingerprint: str = "model-one", embed_dim: int = DIM) -> None:
        self.fingerprint = fingerprint
        self.embed_dim = embed_dim
        self.embedded: list[bytes] = []

    def embed_images(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        if any(image.startswith(b"bad") for image in images):
            raise DataError("this is no picture", reason="not_an_image")
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
    """Records whose vector comes from their name."""

    def make(name: str, **fields: Any) -> Record:
        fields.setdefault("vector", embedder.direction(name.encode()))
        return Record(id=name, path=f"/pictures/{name}.jpg", **fields)

    return make


# A server of one's own is named by MILVUS_URI; then each of these tests runs on both.
_SERVERS = [pytest.param(uri, marks=pytest.mark.milvus) for uri in [os.getenv("MILVUS_URI")] if uri]


@pytest.fixture(params=["lite", *_SERVERS])
def make_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Index]]:
    """Opens, or makes, the collection of this test; the names in it are free."""
    lite = request.param == "lite"
    uri = str(tmp_path / "pictures.db") if lite else request.param
    collection = "pictures" if lite else f"test_{uuid.uuid4().hex[:12]}"
    opened: list[Index] = []

    def make(**changes: Any) -> Index:
        settings: dict[str, Any] = {
            "collection": collection,
            "embed_dim": DIM,
            "fingerprint": "model-one",
            "model": "runs/one",
            "create": True,
        }
        opened.append(Index.open(uri, **(settings | changes)))
        return opened[-1]

    yield make
    for index in opened:
        if not lite and index is opened[-1]:
            drop_collection(index._connection, collection)
        index.close()


@pytest.fixture
def index(make_index: Callable[..., Index]) -> Index:
    return make_index()
