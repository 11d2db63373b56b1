"""Shorter vectors: the first dimensions of an embedding, normalized again.

They take less memory, and their cosines approximate the cosines of whole embeddings.

Dimensions: N vectors, E embedding, D kept dimensions.
"""

import copy
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import ConfigError

P = TypeVar("P")


def shortened(vectors: Float[np.ndarray, "N E"], dimensions: int) -> Float32[np.ndarray, "N D"]:
    """Keep the first dimensions of vectors, and normalize them again."""
    check_dimensions(dimensions, vectors.shape[1])
    return normalized(vectors[:, :dimensions])


def normalized(vectors: Float[np.ndarray, "N E"]) -> Float32[np.ndarray, "N E"]:
    """Normalize each vector to length 1; zeros stay zeros."""
    rows = vectors.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, np.finfo(np.float32).tiny)


def check_dimensions(dimensions: int, embed_dim: int) -> None:
    """Check the number of dimensions to keep."""
    if not 1 <= dimensions <= embed_dim:
        raise ConfigError(f"dimensions must be in [1, {embed_dim}], got {dimensions}")


def shorten(predictor: P, dimensions: int) -> P:
    """Return a copy of a predictor with shorter embeddings; it shares the model.

    Fingerprint, captions and scores of texts are unchanged.
    """
    embed_dim: int = predictor.embed_dim  # type: ignore[attr-defined]
    check_dimensions(dimensions, embed_dim)
    if dimensions == embed_dim:
        return predictor
    short = copy.copy(predictor)
    short.dimensions = dimensions  # type: ignore[attr-defined]
    return short
