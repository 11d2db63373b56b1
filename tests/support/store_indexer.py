"""A process that indexes until it is killed: `python store_indexer.py URI FOLDER NUMBER`."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from coca.search.ingest.migrate import migrate
from coca.search.ingest.reindex import reindex
from coca.search.ingest.sources import FileSource
from coca.search.stores import open_collection, open_store
from store_writer import DIM, direction
from tiny_ingest import ingest

INDEXED = "indexed"


class Slow:
    """A stub model: equal bytes and texts get equal vectors, after a moment."""

    embed_dim = DIM

    def __init__(self, number: int) -> None:
        self.fingerprint = f"model-{number}"

    def embed_images(self, images: Sequence[bytes]) -> Float32[np.ndarray, "N E"]:
        time.sleep(0.005)
        return self.embed_texts([image.decode() for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        return np.stack([direction(f"{self.fingerprint} {text}") for text in texts])


def index(uri: str, folder: Path, number: int) -> None:
    """Index and prune with a model, reindex with the next one, and migrate to another file."""
    with open_store(uri, create=True) as store:
        model = Slow(number)
        if not store.has(INDEXED):
            store.create(INDEXED, embed_dim=DIM, fingerprint=model.fingerprint)
        if store.open(INDEXED).info.fingerprint == model.fingerprint:
            source = FileSource([folder])
            ingest([source], model, store.open(INDEXED), batch_size=4, prune=True)
            reindex(store, INDEXED, Slow(number + 1), batch_size=4)
        collection = store.open(INDEXED)
        with open_collection(
            copy_of(uri),
            f"copy_{number}",
            embed_dim=DIM,
            fingerprint=collection.info.fingerprint,
            create=True,
        ) as copy:
            migrate(collection, copy)


def copy_of(uri: str) -> str:
    return f"{uri}.copy"


if __name__ == "__main__":
    os.write(1, b"open\n")
    index(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
