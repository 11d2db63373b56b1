"""Shorter vectors: the first numbers of an embedding, normalized again.

They take less memory, and their cosines approximate those of the whole embeddings.

Dimensions: N vectors, E embedding, D kept numbers.
"""

import copy
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import ConfigError

P = TypeVar("P")


def shortened(vectors: Float[np.ndarray, "N E"], dimensions: int) -> Float32[np.ndarray, "N D"]:
    """Keep the first numbers of vectors, and normalize them again."""
    check_dimensions(dimensions, vectors.shape[1])
    return normalized(vectors[:, :dimensions])


def normalized(vectors: Float[np.ndarray, "N E"]) -> Float32[np.ndarray, "N E"]:
    """Normalize each vector to length 1; zeros stay zeros."""
    rows = vectors.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, np.finfo(np.float32).tiny)


def check_dimensions(dimensions: int, embed_dim: int) -> None:
    """Check a number of kept numbers."""
    if not 1 <= dimensions <= embed_dim:
        raise ConfigError(f"dimensions must be in [1, {embed_dim}], got {dimensions}")


def shorten(predictor: P, dimensions: int) -> P:
    """Return a copy of a predictor whose embeddings have fewer numbers; it shares the model.

    Its fingerprint is unchanged. Captions and scores of texts are those of the predictor.
    """
    embed_dim: int = predictor.embed_dim  # type: ignore[attr-defined]
    check_dimensions(dimensions, embed_dim)
    if dimensions == embed_dim:
        return predictor
    short = copy.copy(predictor)
    short.dimensions = dimensions  # type: ignore[attr-defined]
    return short
