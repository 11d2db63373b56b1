"""Reranking of the top-k hits by caption likelihood.

Dimensions: N images, M texts.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from coca.predict.predictor import Predictor


def rerank(
    similarity: Float[ndarray, "M N"],
    predictor: Predictor,
    images: Sequence[bytes],
    texts: Sequence[str],
    *,
    k: int,
    both: bool,
) -> Float[ndarray, "M N"]:
    """Rerank the top `k` images of each text by caption likelihood."""
    wanted = best_of_each_row(similarity, k).T
    if both:
        wanted |= best_of_each_row(similarity.T, k)
    log_p = predictor.score(images, texts, only=wanted)
    return reranked(similarity.T, log_p, logit_scale=predictor.logit_scale).T


def best_of_each_row(similarity: Float[ndarray, "N M"], k: int) -> Bool[ndarray, "N M"]:
    """Mask the top `k` of each row; ties are broken by position."""
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    marked = np.zeros(similarity.shape, dtype=bool)
    np.put_along_axis(marked, best, True, axis=1)
    return marked


def reranked(
    similarity: Float[ndarray, "N M"],
    log_p: Float[ndarray, "N M"],
    *,
    logit_scale: float,
) -> Float[ndarray, "N M"]:
    """Rerank the scored pairs by caption likelihood; unscored pairs rank below them.

    The new score is logit_scale * cosine + log p(text | image) - log p(text). The prior p(text) is
    the mean probability of the text over the images that it was scored for. Without the prior,
    short and common texts would rank first for every image.
    """
    scored = np.isfinite(log_p)
    counts = np.maximum(scored.sum(axis=0), 1)
    prior = np.logaddexp.reduce(log_p, axis=0) - np.log(counts)
    gain = np.subtract(log_p, prior, out=np.zeros_like(log_p), where=scored)
    combined = logit_scale * similarity + gain
    lowest = combined.min(where=scored, initial=np.inf)
    behind = lowest - 1 - (similarity.max() - similarity)
    return np.where(scored, combined, behind)
