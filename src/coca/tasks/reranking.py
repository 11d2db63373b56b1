"""Second thoughts: the best few by cosine, put in order by how likely the words are.

Dimensions: N images, M texts.
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray


def best_of_each_row(similarity: Float[ndarray, "N M"], k: int) -> Bool[ndarray, "N M"]:
    """Marks the `k` highest of each row; ties are broken by position."""
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
    """Gives new similarities: pairs whose words were scored come first, in a new order.

    The scaled cosine plus the log-probability of the text, less that of the text whatever the
    image is (its mean over the images that it was scored for). Without that, short and common
    texts would come first for every image.

    Args:
        similarity: Cosines.
        log_p: Of each text for each image; minus infinity where it was not scored.
        logit_scale: What the model multiplies cosines by.
    """
    scored = np.isfinite(log_p)
    counts = np.maximum(scored.sum(axis=0), 1)
    prior = np.logaddexp.reduce(log_p, axis=0) - np.log(counts)
    gain = np.subtract(log_p, prior, out=np.zeros_like(log_p), where=scored)
    combined = logit_scale * similarity + gain
    lowest = combined.min(where=scored, initial=np.inf)
    behind = lowest - 1 - (similarity.max() - similarity)
    return np.where(scored, combined, behind)
