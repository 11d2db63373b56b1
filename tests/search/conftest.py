import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.search.records import Record
from coca.search.store import Collection, Store
from coca.search.stores import open_store

DIM = 16


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

    def with_cosines(self, text: str, cosines: Sequence[float]) -> Float32[np.ndarray, "N E"]:
        """Return vectors of length 1 with given cosines to the vector of a text."""
        near, other = self.direction(text.encode()), self.direction(b"other")
        other -= (other @ near) * near
        other /= np.linalg.norm(other)
        return np.stack([c * near + np.sqrt(1 - c**2) * other for c in cosines]).astype(np.float32)


@pytest.fixture
def embedder() -> StandIn:
    return StandIn()


@pytest.fixture
def make_record(embedder: StandIn) -> Callable[..., Record]:
    """Build records whose vector depends on their name."""

    def make(name: str, **fields: Any) -> Record:
        fields.setdefault("path", f"/pictures/{name}.jpg")
        fields.setdefault("vector", embedder.direction(name.encode()))
        return Record(id=name, **fields)

    return make


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Path of a SQLite file; the contract tests have those of other stores."""
    return str(tmp_path / "pictures.db")


@pytest.fixture
def store(uri: str) -> Iterator[Store]:
    with open_store(uri, create=True) as opened:
        yield opened


@pytest.fixture
def fresh() -> str:
    """Collection name unique to this test."""
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def collection(store: Store) -> Collection:
    """Create an empty collection `pictures`, for vectors of the embedder."""
    return store.create("pictures", embed_dim=DIM, fingerprint="model-one", model="runs/one")
