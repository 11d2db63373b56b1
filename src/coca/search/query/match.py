"""Match score: whether a collection has what a typed query asks for.

    score(q, r) = (q - t / 2) . (x - m / 2) + w share^2 + TEXT_WEIGHT inside^4

q is the vector of the query, and x the weighted sum of the vectors of the record's image and given
caption; a record without one has x of its image alone. t is the mean vector of texts that match
nothing, and m the mean of all x: both remove what makes a query or a record near to everything.
`share` is the fraction of the query's words that the record has (`coca.search.words`), with a
weight w for what was given, such as caption and tags, and another with a caption that the model
generated. `inside` is that of the text inside the image.

The limit of a match is a quantile of the highest score among the first hits of texts that match
nothing in the collection, so that the rate of false alarms is a stated one.

Dimensions: K records, P matching texts, M other texts, E embedding.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from jaxtyping import Float

from coca.core.config.frozen_config import Config, Fraction
from coca.core.errors import ArgumentError, ConfigError, SearchError
from coca.search.records import CollectionInfo, Hit, Record
from coca.search.words import TEXT, query_terms, share, terms_of, texts_of

IMAGE_WEIGHT, CAPTION_WEIGHT, TEXT_WEIGHT = 0.25, 0.75, 0.6
"""Weights of the match score. They do not follow the weights of a search, as the threshold is
fitted once. With the default weights of a search, 7.0 % instead of 5.3 % of absent concepts match,
and as many answered queries."""
GIVEN_WEIGHT, GENERATED_WEIGHT = 0.3, 0.2
"""Weights of the words of the query that a record has: in what was given, such as its caption and
tags, and with a caption that the model generated. A word of many different images, such as "dog",
has low cosines with all of them; that the captioning decoder wrote it about one of the first hits
is evidence of its own."""
VERDICT_HITS = 10
"""A query has a match if one of its first hits is above the limit."""
MARKED_HITS = 100
"""Maximum number of hits of a page that are marked: their records are read."""
_DIGITS = 5
"""Decimals of stored vectors."""
_LEAST_SPREAD = 1e-3


def mixed_vector(record: Record) -> Float[np.ndarray, " E"]:
    """Return the weighted sum of the vectors of image and caption.

    A generated caption does not count: its vector has little that the image's vector lacks.
    """
    if record.caption_source != "given" or record.text_vector is None:
        return record.vector
    return IMAGE_WEIGHT * record.vector + CAPTION_WEIGHT * record.text_vector


def words_score(query: Sequence[tuple[str, str]], record: Record) -> float:
    """Compute what the words of a record add to its match score.

    Args:
        query: Terms of the query, see `coca.search.words.query_terms`.
        record: The record.
    """
    texts = texts_of(record)
    inside, generated = (terms_of(texts.pop(name, "")) for name in (TEXT, "generated"))
    given = terms_of("\n".join(texts.values()))
    return (
        max(
            GIVEN_WEIGHT * share(query, given) ** 2,
            GENERATED_WEIGHT * share(query, (*given, *generated)) ** 2,
        )
        + TEXT_WEIGHT * share(query, inside) ** 4
    )


@dataclass(frozen=True, kw_only=True)
class MatchScore(Config):
    """Match score of a collection without a threshold."""

    texts_mean: tuple[float, ...]
    """Mean vector of texts that match nothing."""
    records_mean: tuple[float, ...]
    """Mean of `mixed_vector` over the records."""

    @classmethod
    def of_means(
        cls, texts: Float[np.ndarray, "M E"], records: Float[np.ndarray, "K E"]
    ) -> "MatchScore":
        """Compute both means."""
        means = (some.mean(axis=0, dtype=np.float64).round(_DIGITS) for some in (texts, records))
        texts_mean, records_mean = (tuple(mean.tolist()) for mean in means)
        return cls(texts_mean=texts_mean, records_mean=records_mean)

    def scores(
        self, query: Float[np.ndarray, " E"], text: str, records: Sequence[Record]
    ) -> Float[np.ndarray, " K"]:
        """Compute the match scores of a query and records."""
        mixed = np.array([mixed_vector(record) for record in records], np.float64)
        mixed = mixed.reshape(len(records), len(query)) - np.array(self.records_mean) / 2
        terms = query_terms(text)
        words = np.array([words_score(terms, record) for record in records], np.float64)
        return mixed @ (query - np.array(self.texts_mean) / 2) + words


@dataclass(frozen=True, kw_only=True)
class Calibration(MatchScore):
    """Match score and threshold of a collection for one model; stored with the collection."""

    fingerprint: str
    """Fingerprint of the model."""
    median: float
    """Median of the highest score among the first hits of each text that matches nothing."""
    limit: float
    """Score above which a hit matches: a higher quantile of the same scores."""
    false_alarms: Fraction
    """Maximum rate of texts that match nothing and have a hit above the limit, 0 to 1."""
    records: Annotated[int, Ge(0)]
    """Number of records when the collection was calibrated."""
    other: Mapping[str, int]
    """Number of texts that match nothing, by their source."""
    matching: Annotated[int, Ge(0)]
    """Number of texts with a known image."""
    found: Fraction | None
    """Rate of these texts whose image has a score above the limit; None without such a text."""

    def probability(self, score: float) -> float:
        """Compute the probability of a match, if half of the queries have one.

        It is 0.5 at the limit. Scores of texts that match nothing are taken as normal, and those of
        other queries as equally frequent around the limit.
        """
        z = NormalDist().inv_cdf(1 - self.false_alarms)
        logit = z * z * (score - self.limit) / max(self.limit - self.median, _LEAST_SPREAD)
        return 0.5 * (1 + math.tanh(0.5 * logit))

    def summary(self) -> dict[str, Any]:
        """Return all but the vectors, as commands print it."""
        vectors = {"texts_mean", "records_mean"}
        return {name: value for name, value in asdict(self).items() if name not in vectors}

    def to_json(self) -> str:
        """Format as JSON, as it is stored with the collection."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, info: CollectionInfo, *, fingerprint: str) -> "Calibration | None":
        """Read the calibration of a collection; None if it is not calibrated."""
        if not info.calibration:
            return None
        again = f"`coca collection calibrate {info.collection}` replaces it"
        try:
            calibration = _parse(info.calibration)
        except (ValueError, TypeError, KeyError, ConfigError) as error:
            raise SearchError(
                f"the calibration of collection {info.collection!r} in {info.uri} cannot be read "
                f"({error}): {again}"
            ) from error
        if calibration.fingerprint != fingerprint:
            raise SearchError(
                f"the calibration of collection {info.collection!r} in {info.uri} is of model "
                f"{calibration.fingerprint}, and not of {fingerprint}: {again}"
            )
        return calibration


@lru_cache(maxsize=64)
def _parse(text: str) -> Calibration:
    fields: dict[str, Any] = json.loads(text)
    means = {name: tuple(fields[name]) for name in ("texts_mean", "records_mean")}
    return Calibration(**fields | means)


def fit(
    score: MatchScore,
    other: Mapping[str, Float[np.ndarray, "..."]],
    matching: Float[np.ndarray, " P"],
    *,
    false_alarms: float,
    fingerprint: str,
    records: int,
) -> Calibration:
    """Choose the limit from scores of texts that match nothing.

    It is the highest of those that the sources of `other` require. A source with too few texts for
    the rate is left out.
    """
    if not 0 < false_alarms < 0.5:
        raise ArgumentError(f"false_alarms must be in (0, 0.5), got {false_alarms}")
    least = math.ceil(1 / false_alarms) - 1
    enough = {source: scores for source, scores in other.items() if len(scores) >= least}
    if not enough:
        total = max(map(len, other.values()), default=0)
        raise SearchError(
            f"a false-alarm rate of {false_alarms:g} needs at least {least} texts that match "
            f"nothing, got {total}: allow a higher rate"
        )
    limits = {source: quantile_above(scores, false_alarms) for source, scores in enough.items()}
    highest = max(limits, key=limits.__getitem__)
    return Calibration(
        **vars(score),
        fingerprint=fingerprint,
        median=float(np.median(enough[highest])),
        limit=limits[highest],
        false_alarms=false_alarms,
        records=records,
        other={source: len(scores) for source, scores in enough.items()},
        matching=len(matching),
        found=float(np.mean(matching > limits[highest])) if len(matching) else None,
    )


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


def mark_matches(
    hits: Sequence[Hit],
    records: Mapping[str, Record],
    query: Float[np.ndarray, " E"],
    text: str,
    calibration: Calibration,
    *,
    best: Sequence[str],
) -> list[Hit]:
    """Set the match probability of hits, and the verdict on the query; the order is unchanged."""
    found = calibration.scores(query, text, list(records.values()))
    scores = dict(zip(records, found.tolist(), strict=True))
    first = [scores[id] for id in best if id in scores]
    query_matches = max(first) > calibration.limit if first else None
    return [
        replace(
            hit,
            match_probability=calibration.probability(scores[hit.id]),
            is_match=scores[hit.id] > calibration.limit,
            query_matches=query_matches,
        )
        if hit.id in scores
        else replace(hit, query_matches=query_matches)
        for hit in hits
    ]
