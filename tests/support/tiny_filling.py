"""Fills a collection as a process to be killed: `python tiny_filling.py FOLDER URI NAME`."""

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.pipeline import ingest
from coca.search.ingest.sources import FileSource
from coca.search.milvus.collection import Collection

DIM = 16


class Slow:
    """A stub model: equal bytes and texts get equal vectors, after a moment."""

    fingerprint, embed_dim = "slow", DIM

    def embed_images(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        time.sleep(0.01)
        return np.stack([direction(image) for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        return np.stack([direction(text.encode()) for text in texts])


def direction(data: bytes) -> Float32[np.ndarray, " E"]:
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def open_index(uri: str, name: str) -> Collection:
    return Collection.open(uri, name, embed_dim=DIM, fingerprint="slow", create=True)


def fill(folder: Path, collection: Collection) -> IngestReport:
    return ingest([FileSource([folder])], Slow(), collection, batch_size=4, prune=True)


if __name__ == "__main__":
    folder, uri, name = sys.argv[1:]
    with open_index(uri, name) as collection:
        sys.stdout.write("open\n")
        sys.stdout.flush()
        fill(Path(folder), collection)
