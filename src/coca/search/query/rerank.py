"""Rerank the top-k hits by caption likelihood.

The score is `logit_scale * cosine + log p(text | image)`, in nats: a joint model of the contrastive
and the captioning head.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from coca.core.errors import ArgumentError
from coca.search.predictor import CaptionScorer
from coca.search.query.originals import ImageOpener, read_originals
from coca.search.records import Hit, Record

logger = logging.getLogger(__name__)


def check_texts(texts: Mapping[str, float]) -> None:
    """Check that the query has a text to score."""
    if not texts:
        raise ArgumentError(
            "re-ranking asks how likely words are, and the query has none: add a text"
        )


def rerank(
    hits: Sequence[Hit],
    records: Mapping[str, Record],
    texts: Mapping[str, float],
    scorer: CaptionScorer,
    *,
    cosines: Mapping[str, float],
    open_image: ImageOpener,
) -> list[Hit]:
    """Rerank hits by cosine and caption likelihood, reading their images by path.

    Hits whose image cannot be read follow the others in their previous order. A warning names the
    first of them.
    """
    hits = [hit for hit in hits if hit.id in records]
    originals, lost = read_originals([records[hit.id] for hit in hits], open_image)
    if lost:
        logger.warning(
            "%s of %s images cannot be re-ranked and follow the others, the first since %s",
            f"{len(lost):,}",
            f"{len(hits):,}",
            lost[0],
        )
    read = [hit for hit in hits if hit.id in originals]
    images = [originals[hit.id] for hit in read]
    ranked = reranked(read, images, texts, scorer, cosines=[cosines[hit.id] for hit in read])
    return [*ranked, *(hit for hit in hits if hit.id not in originals)]


def reranked(
    hits: Sequence[Hit],
    images: Sequence[Any],
    texts: Mapping[str, float],
    scorer: CaptionScorer,
    *,
    cosines: Sequence[float],
) -> list[Hit]:
    """Sort hits by scaled cosine plus log-likelihood of the texts, best first.

    `score` is unchanged; `log_likelihood` and `rank_score`, the sum, are set.
    """
    check_texts(texts)
    if not hits:
        return []
    weights = np.array(list(texts.values()))
    likely = scorer.score(images, list(texts)) @ weights
    joint = scorer.logit_scale * np.array(cosines) + likely
    return [
        replace(hits[row], log_likelihood=float(likely[row]), rank_score=float(joint[row]))
        for row in np.argsort(-joint, kind="stable")
    ]
