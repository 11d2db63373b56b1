"""Calibrated match score: the probability that an image matches a text, and its threshold.

The score is linear in two measures of a text and an image: the cosine of their embeddings, and the
pointwise mutual information log p(text | image) - log p(text), in nats. The second term is the mean
of p(text | image) over sample images of the collection. A logistic regression maps the score to a
probability. The threshold is a quantile over texts that match nothing in the collection, so that
the rate of false alarms is a stated one.

Dimensions: P matching texts, M other texts, K hits of a text, F measures, S sample images.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from jaxtyping import Bool, Float

from coca.core.config.frozen_config import Config, Fraction
from coca.core.errors import ArgumentError, ConfigError, SearchError
from coca.search.predictor import CaptionScorer
from coca.search.query.originals import ImageOpener, read_originals
from coca.search.query.words import analyze, stop_terms
from coca.search.records import CollectionInfo, Hit, Record

SCORED_HITS = 32
"""Maximum number of hits of a query that are scored: one pass of the decoder."""

_RIDGE = 1e-3
"""Penalty of the regression, which keeps the weights finite where both classes are separable."""
_STEPS = 100
_TOLERANCE = 1e-10


@dataclass(frozen=True, kw_only=True)
class Calibration(Config):
    """Match score of a collection, fitted for one model; stored with the collection."""

    fingerprint: str
    """Fingerprint of the model."""
    cosine_weight: Annotated[float, Ge(0)]
    """Weight of the cosine in the log-odds of a match."""
    pmi_weight: Annotated[float, Ge(0)]
    """Weight of the pointwise mutual information, per nat."""
    bias: float
    """Log-odds of a match where both measures are 0."""
    threshold: Fraction
    """A hit matches if its probability is above this one."""
    false_alarms: Fraction
    """Maximum rate of texts that match nothing and have a hit above the threshold, 0 to 1."""
    samples: tuple[str, ...]
    """Ids of the images over which p(text) is averaged."""
    records: Annotated[int, Ge(0)]
    """Number of records when the collection was calibrated."""
    matching: Annotated[int, Ge(0)]
    """Number of texts with a known image."""
    other: Mapping[str, int]
    """Number of texts that match nothing, by their source."""
    found: Fraction
    """Rate of held-out texts whose own image is among the first hits and above the threshold."""

    def probability(
        self, cosine: Float[np.ndarray, "*K"], pmi: Float[np.ndarray, "*K"]
    ) -> Float[np.ndarray, "*K"]:
        """Compute the probability that a hit matches, if half of the texts have one match.

        Args:
            cosine: Cosine of text and image, -1 to 1.
            pmi: log p(text | image) - log p(text), in nats; see `mutual_information`.
        """
        logits = self.cosine_weight * cosine + self.pmi_weight * pmi + self.bias
        return _sigmoid(np.asarray(logits, np.float64))

    def to_json(self) -> str:
        """Format as JSON, as it is stored with the collection."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, info: CollectionInfo, *, fingerprint: str) -> "Calibration | None":
        """Read the calibration of a collection; None if it is not calibrated.

        Args:
            info: Description of the collection.
            fingerprint: Fingerprint of the model that scores.

        Raises:
            SearchError: The calibration is of another model, or cannot be read.
        """
        if not info.calibration:
            return None
        again = f"`coca collection calibrate {info.collection}` replaces it"
        try:
            fields: dict[str, Any] = json.loads(info.calibration)
            found = cls(**{**fields, "samples": tuple(fields["samples"])})
        except (ValueError, TypeError, KeyError, ConfigError) as error:
            raise SearchError(
                f"the calibration of collection {info.collection!r} in {info.uri} cannot be read "
                f"({error}): {again}"
            ) from error
        if found.fingerprint != fingerprint:
            raise SearchError(
                f"the calibration of collection {info.collection!r} in {info.uri} is of model "
                f"{found.fingerprint}, and not of {fingerprint}: {again}"
            )
        return found


@dataclass(frozen=True)
class Measures:
    """Cosine and mutual information of texts and their hits; NaN where there is no hit."""

    cosine: Float[np.ndarray, "M K"]
    pmi: Float[np.ndarray, "M K"]

    def __len__(self) -> int:
        return len(self.cosine)

    def __getitem__(self, rows: slice) -> "Measures":
        return Measures(self.cosine[rows], self.pmi[rows])


def mutual_information(
    log_p: Float[np.ndarray, " K"],
    samples_log_p: Float[np.ndarray, " S"],
    is_sample: Bool[np.ndarray, "K S"],
) -> Float[np.ndarray, " K"]:
    """Compute log p(text | image) - log p(text) of one text and its hits, in nats.

    p(text) is the mean over the sample images. A hit that is a sample itself is left out of its own
    mean, which would otherwise limit its score to log S.

    Args:
        log_p: Log-likelihood of the text for each hit, in nats.
        samples_log_p: Log-likelihood of the text for each sample image, in nats; at least two.
        is_sample: Which sample each hit is, if any.
    """
    others = np.where(is_sample, -np.inf, samples_log_p)
    counts = (~is_sample).sum(axis=1)
    return log_p - (np.logaddexp.reduce(others, axis=1) - np.log(counts))


def fit(
    matching: Measures,
    other: Mapping[str, Measures],
    *,
    shown: Bool[np.ndarray, " P"],
    false_alarms: float,
    fingerprint: str,
    samples: Sequence[str],
    records: int,
) -> Calibration:
    """Fit the match score on half of the texts, and choose its threshold on the other half.

    Rows with an even number are for the fit, the others are held out; rows must be in random order.
    The threshold is the highest of those that the sources of `other` require.

    Args:
        matching: Texts with their own image, one column.
        other: By source, texts that match nothing, with their first hits.
        shown: Whether the own image of each text is among its first hits.
        false_alarms: Maximum rate of texts that match nothing and have a hit above the threshold,
            in (0, 1).
        fingerprint: Fingerprint of the model.
        samples: Ids of the sample images.
        records: Number of records of the collection.

    Raises:
        SearchError: There are too few texts for this rate.
    """
    if not 0 < false_alarms < 1:
        raise ArgumentError(f"false_alarms must be in (0, 1), got {false_alarms}")
    least = math.ceil(1 / false_alarms) - 1
    held_out = {name: some[1::2] for name, some in other.items() if len(some) // 2 >= least}
    if not held_out or len(matching) < 4:
        total = max((len(some) for some in other.values()), default=0)
        raise SearchError(
            f"a false-alarm rate of {false_alarms:g} needs at least {2 * least} texts that match "
            f"nothing and 4 that match, got {total} and {len(matching)}: index more images with "
            "captions, or allow a higher rate"
        )
    seen = [other[name][::2] for name in held_out]
    cosine_weight, pmi_weight, bias = _fit_logits(matching[::2], seen)
    made = Calibration(
        fingerprint=fingerprint,
        cosine_weight=cosine_weight,
        pmi_weight=pmi_weight,
        bias=bias,
        threshold=0.0,
        false_alarms=false_alarms,
        samples=tuple(samples),
        records=records,
        matching=len(matching),
        other={name: len(other[name]) for name in held_out},
        found=0.0,
    )
    threshold = max(
        quantile_above(_best(made.probability(some.cosine, some.pmi)), false_alarms)
        for some in held_out.values()
    )
    own = made.probability(matching.cosine, matching.pmi)[1::2, 0]
    found = float(np.mean(shown[1::2] & (own > threshold)))
    return Calibration(**{**vars(made), "threshold": threshold, "found": found})


def quantile_above(scores: Float[np.ndarray, " M"], rate: float) -> float:
    """Return the smallest score that a further score exceeds with a probability of at most `rate`.

    For M scores it is the one of rank ceil((M + 1) (1 - rate)): the split-conformal quantile, which
    holds for any distribution and any M.

    Raises:
        ValueError: There are fewer than 1 / rate - 1 scores.
    """
    rank = math.ceil((len(scores) + 1) * (1 - rate) - 1e-9)
    if rank > len(scores):
        raise ValueError(f"{len(scores)} scores have no quantile at a rate of {rate:g}")
    return float(np.sort(scores)[rank - 1])


def _fit_logits(matching: Measures, other: Sequence[Measures]) -> tuple[float, float, float]:
    """Fit weights of cosine and mutual information, and the bias, of the log-odds.

    All pairs of a text and a hit are used; each text has the same weight. A measure whose weight
    would be negative gets none. The bias is that of a hit, where half of the texts have one
    matching image among their hits.
    """
    pairs = np.concatenate([_columns(some).reshape(-1, 2) for some in other])
    sizes = np.concatenate([_text_weights(some) for some in other])
    there = np.isfinite(pairs).all(axis=1)
    pairs, sizes = pairs[there], sizes[there]
    own = _columns(matching)[:, 0]
    weights, bias = _logistic(own, pairs, sizes)
    if weights.min() < 0:
        kept = int(weights.argmax())
        alone, bias = _logistic(own[:, [kept]], pairs[:, [kept]], sizes)
        weights = np.zeros(2)
        weights[kept] = max(float(alone[0]), 0.0)
    hits = len(pairs) / sum(map(len, other))
    return float(weights[0]), float(weights[1]), bias - math.log(2 * hits - 1)


def _columns(some: Measures) -> Float[np.ndarray, "M K 2"]:
    return np.stack([some.cosine, some.pmi], axis=-1).astype(np.float64)


def _text_weights(some: Measures) -> Float[np.ndarray, " pairs"]:
    """Weight pairs by one over the number of hits of their text."""
    there = np.isfinite(some.cosine) & np.isfinite(some.pmi)
    return np.where(there, 1 / np.maximum(there.sum(axis=1, keepdims=True), 1), 0.0).ravel()


def _best(scores: Float[np.ndarray, "M K"]) -> Float[np.ndarray, " M"]:
    """Return the highest score of each text; texts without any hit are below all others."""
    lowest = np.nanmin(scores) if np.isfinite(scores).any() else 0.0
    return np.where(np.isfinite(scores), scores, lowest).max(axis=1)


def _logistic(
    positives: Float[np.ndarray, "P F"],
    negatives: Float[np.ndarray, "N F"],
    weights: Float[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, " F"], float]:
    """Fit a logistic regression by Newton's method; both classes have the same total weight."""
    rows = np.concatenate([positives, negatives])
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale == 0] = 1.0
    inputs = np.column_stack([(rows - mean) / scale, np.ones(len(rows))])
    targets = np.repeat([1.0, 0.0], [len(positives), len(negatives)])
    shares = np.concatenate([np.full(len(positives), 1 / len(positives)), weights / weights.sum()])
    penalty = np.diag([_RIDGE] * rows.shape[1] + [0.0])
    solution = np.zeros(inputs.shape[1])
    for _ in range(_STEPS):
        guessed = _sigmoid(inputs @ solution)
        slope = inputs.T @ (shares * (guessed - targets)) + penalty @ solution
        curved = shares * guessed * (1 - guessed)
        step = np.linalg.solve((inputs * curved[:, None]).T @ inputs + penalty, slope)
        # A full step may diverge where the classes are nearly separable.
        solution -= step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < _TOLERANCE:
            break
    fitted = solution[:-1] / scale
    return fitted, float(solution[-1] - fitted @ mean)


def _sigmoid(logits: Float[np.ndarray, "*N"]) -> Float[np.ndarray, "*N"]:
    return 0.5 * (1 + np.tanh(0.5 * logits))


# Mark the hits of a text query by their match probability, on a calibrated collection.


logger = logging.getLogger(__name__)

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
    """Set `match_probability` and `is_match` of the first 32 hits, in one pass of the decoder.

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
            is_match=probabilities[hit.id] > calibration.threshold,
        )
        if hit.id in probabilities
        else hit
        for hit in hits
    ]


def mark_named(hits: Sequence[Hit], texts: Iterable[str]) -> list[Hit]:
    """Set `is_match` of hits of a hybrid search whose given caption has all words of the query.

    Stop words do not count, except negations and at the end ("vitamin a"), nor does the number of a
    noun. A person named what the image shows, which is more than a probability. Unmarked hits stay
    so.

    Args:
        hits: Hits of a search, marked by `mark_matches`.
        texts: Query texts.
    """
    wanted = {term for text in texts for term in _needed_terms(analyze(text))}
    return [
        replace(hit, is_match=True)
        if hit.is_match is False
        and hit.bm25 is not None
        and hit.caption_source == "given"
        and wanted <= set(analyze(hit.caption))
        else hit
        for hit in hits
    ]


def _needed_terms(terms: Sequence[str]) -> list[str]:
    unneeded = stop_terms() - {"no", "not"}
    return [term for term in terms[:-1] if term not in unneeded] + list(terms[-1:])
