"""Mark the hits of a text query by their match probability, on a calibrated collection."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from coca.search.query.calibration.match_score import SCORED_HITS, Calibration, mutual_information
from coca.search.query.hybrid.bm25_index import split_words
from coca.search.query.originals import ImageOpener, read_originals
from coca.search.query.rerank import CaptionScorer
from coca.search.query.short_queries import singular
from coca.search.records import Hit, Record

logger = logging.getLogger(__name__)

_WORDS = (
    "a an and are as at be by for from in into is it its of on or that the their there they this "
    "to was were with"
)
FUNCTION_WORDS = frozenset(_WORDS.split())
"""English words without content; a caption need not have them."""

MIN_SAMPLES = 2
"""Minimum number of readable sample images."""


def mark_matches(
    hits: Sequence[Hit],
    records: Mapping[str, Record],
    text: str,
    scorer: CaptionScorer,
    calibration: Calibration,
    *,
    cosines: Mapping[str, float],
    open_image: ImageOpener,
) -> list[Hit]:
    """Set `match_probability` and `matches` of the first 32 hits, in one pass of the decoder.

    The order is unchanged. Hits whose image cannot be read have no probability; a warning names the
    first of them.

    Args:
        hits: Hits of a search.
        records: Records of the hits and of the sample images, by id.
        text: Query text.
        scorer: Model that scores captions.
        calibration: Calibration of the collection for this model.
        cosines: Cosine of the query and the image of each hit, by id.
        open_image: Reads an image by its path.
    """
    first = [hit.id for hit in hits[:SCORED_HITS] if hit.id in records]
    # The rank score of reranked hits has the likelihood already.
    log_p = {hit.id: hit.log_likelihood for hit in hits if hit.log_likelihood is not None}
    there = [*first, *(id for id in calibration.samples if id in records)]
    wanted = [id for id in dict.fromkeys(there) if id not in log_p]
    images, lost = read_originals([records[id] for id in wanted], open_image)
    if lost:
        logger.warning(
            "%s of %s images cannot be compared with the query, the first since %s",
            f"{len(lost):,}",
            f"{len(wanted):,}",
            lost[0],
        )
    if images:
        likely = scorer.score(list(images.values()), [text])[:, 0]
        log_p |= zip(images, likely.tolist(), strict=True)
    scored = [id for id in first if id in log_p]
    samples = [id for id in calibration.samples if id in log_p]
    if len(samples) < MIN_SAMPLES:
        logger.warning(
            "%s of %s sample images of the calibration can be read, so no hit is marked: calibrate "
            "the collection again",
            len(samples),
            len(calibration.samples),
        )
        return list(hits)
    if not scored:
        return list(hits)
    pmi = mutual_information(
        np.array([log_p[id] for id in scored]),
        np.array([log_p[id] for id in samples]),
        np.array([[id == sample for sample in samples] for id in scored]),
    )
    found = calibration.probability(np.array([cosines[id] for id in scored]), pmi)
    probabilities = dict(zip(scored, found.tolist(), strict=True))
    return [
        replace(
            hit,
            match_probability=probabilities[hit.id],
            matches=probabilities[hit.id] > calibration.threshold,
        )
        if hit.id in probabilities
        else hit
        for hit in hits
    ]


def mark_named(hits: Sequence[Hit], texts: Iterable[str]) -> list[Hit]:
    """Set `matches` of hits of a hybrid search whose given caption has all words of the query.

    Function words do not count, except at the end ("vitamin a"), nor does the number of a noun. A
    person named what the image shows, which is more than a probability. Unmarked hits stay so.

    Args:
        hits: Hits of a search, marked by `mark_matches`.
        texts: Query texts.
    """
    wanted = {singular(word) for text in texts for word in _content_words(split_words(text))}
    return [
        replace(hit, matches=True)
        if hit.matches is False
        and hit.bm25 is not None
        and hit.caption_source == "given"
        and wanted <= {singular(word) for word in split_words(hit.caption)}
        else hit
        for hit in hits
    ]


def _content_words(words: Sequence[str]) -> list[str]:
    return [word for word in words[:-1] if word not in FUNCTION_WORDS] + list(words[-1:])
