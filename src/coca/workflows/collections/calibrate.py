"""Calibrate a collection: choose the limit from which a hit matches, for a rate of false alarms.

Texts that match nothing are a list of this package, of which no caption of the collection has a
word, and words of random letters. `coca index` calibrates a collection that it changed; a list of
queries with their images replaces the texts.
"""

import string
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float
from pydantic import TypeAdapter

from coca.core.errors import ConfigError, SearchError
from coca.core.progress import ProgressMaker, silent
from coca.search.filters import NOT_HIDDEN
from coca.search.predictor import Embedder
from coca.search.query.match import VERDICT_HITS, Calibration, MatchScore, fit, mixed_vector
from coca.search.query.query_terms import embed_queries
from coca.search.records import Record, check_same_model
from coca.search.search_options import CalibrationConfig, Ranking, SearchOptions
from coca.search.store import Collection

ABSENT, RANDOM, LISTED = "texts of the package", "random letters", "queries of the list"
MIN_RECORDS = 32
"""Number of records from which `coca index` calibrates: fewer are seen at one glance."""
MAX_CHANGE = 0.1
"""Change of the number of records from which `coca index` calibrates again."""

_MIN_TEXTS = 40
"""Number of texts of the package that are used in any case."""
_RANDOM_TEXTS = 100
_RECORDS = 1_000
"""Number of records over which vectors are averaged."""
_MATCHES = 1_000
"""Maximum number of records with a word of a text that are counted."""


def calibrate(
    collection: Collection,
    embedder: Embedder,
    config: CalibrationConfig | None = None,
    *,
    answers: Mapping[str, Sequence[str]] | None = None,
    progress: ProgressMaker = silent,
) -> Calibration:
    """Calibrate the match score of a collection, and store it with the collection.

    Raises:
        SearchError: Another model filled the collection, all its records are hidden, or there
            are too few texts for the rate of false alarms.
        ConfigError: A correct image of `answers` is not in the collection.
    """
    config = config or CalibrationConfig()
    info = collection.info
    check_same_model(info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim)
    random = np.random.default_rng(config.seed)
    ids = collection.ids(NOT_HIDDEN)
    if not ids:
        raise SearchError(
            f"collection {info.collection!r} has no records to calibrate with: all are hidden"
        )
    sample = collection.get(_drawn(ids, _RECORDS, random)).values()
    absent = absent_texts()
    score = MatchScore.of_means(
        embed_queries(embedder.embed_texts, absent),
        np.stack([mixed_vector(record) for record in sample]),
    )
    if answers is None:
        other = {ABSENT: _unrelated(collection, absent, random), RANDOM: _random_texts(random)}
        matching: list[tuple[str, Record]] = []
    else:
        other = {LISTED: [text for text, images in answers.items() if not images]}
        matching = _listed(collection, answers)
    seconds = config.max_seconds / len(other)
    scores = {
        source: _first_scores(collection, embedder, score, texts, seconds, progress)
        for source, texts in other.items()
    }
    own = [
        score.scores(embed_queries(embedder.embed_texts, [text])[0], text, [record])[0]
        for text, record in matching
    ]
    calibration = fit(
        score,
        scores,
        np.array(own, np.float64),
        false_alarms=config.false_alarms,
        fingerprint=info.fingerprint,
        records=collection.count(),
    )
    collection.keep_calibration(calibration.to_json())
    return calibration


def needs_calibration(collection: Collection) -> bool:
    """Return whether the number of records has changed by more than a tenth since a calibration.

    A collection of less than 32 records that are not hidden needs none, nor does one that was
    calibrated by a list of queries.
    """
    info = collection.describe()
    if info.count < MIN_RECORDS:
        return False
    try:
        old = Calibration.of(info, fingerprint=info.fingerprint)
    except SearchError:
        old = None
    if old is not None and (
        LISTED in old.other or abs(info.count - old.records) <= MAX_CHANGE * old.records
    ):
        return False
    return collection.count(NOT_HIDDEN) >= MIN_RECORDS


@cache
def absent_texts() -> tuple[str, ...]:
    """Read the texts of the package."""
    path = files("coca.workflows.collections") / "absent_texts.yaml"
    return tuple(yaml.safe_load(path.read_text(encoding="utf-8")))


def read_answers(path: Path) -> dict[str, list[str]]:
    """Read a YAML or JSON file that maps queries to the ids or paths of their correct images."""
    try:
        # JSON is YAML as well.
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TypeAdapter(dict[str, list[str]]).validate_python(table, strict=True)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} must map each query to a list of ids or paths of images: {error}"
        ) from error


def _drawn(items: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    return [items[row] for row in random.permutation(len(items))[:count]]


def _unrelated(
    collection: Collection, texts: Sequence[str], random: np.random.Generator
) -> list[str]:
    """Return the texts of which no record has a word, or some with the fewest matches."""
    drawn = _drawn(texts, len(texts), random)
    matches = {text: len(collection.words(text, _MATCHES)) for text in drawn}
    unrelated = [text for text, count in matches.items() if count == 0]
    fewest = sorted(matches, key=matches.__getitem__)[:_MIN_TEXTS]
    return unrelated if len(unrelated) >= _MIN_TEXTS else fewest


def _random_texts(random: np.random.Generator) -> list[str]:
    """Draw texts of one to three words of random letters."""
    letters = list(string.ascii_lowercase)
    return [
        " ".join(
            "".join(random.choice(letters, random.integers(3, 9)))
            for _ in range(random.integers(1, 4))
        )
        for _ in range(_RANDOM_TEXTS)
    ]


def _first_scores(
    collection: Collection,
    embedder: Embedder,
    score: MatchScore,
    texts: Sequence[str],
    max_seconds: float,
    progress: ProgressMaker,
) -> Float[np.ndarray, " M"]:
    """Compute the highest match score of the first hits of each text that the time allows."""
    vectors = embed_queries(embedder.embed_texts, texts) if texts else ()
    page, ranking = SearchOptions(k=VERDICT_HITS), Ranking()
    scores: list[float] = []
    end = time.monotonic() + max_seconds
    with progress("calibrating", len(texts)) as bar:
        for text, vector in zip(texts, vectors, strict=True):
            if len(scores) >= _MIN_TEXTS and time.monotonic() > end:
                break
            hits = collection.ranked(vector, text, ranking, page)
            records = list(collection.get(hit.id for hit in hits).values())
            scores.append(float(score.scores(vector, text, records).max()))
            bar.advance(1)
    return np.array(scores)


def _listed(
    collection: Collection, answers: Mapping[str, Sequence[str]]
) -> list[tuple[str, Record]]:
    """Return each query with each of its correct images."""
    pages = collection.pages(vectors=False)
    by_path = {record.path: record.id for page in pages for record in page}
    pairs = [
        (text, by_path.get(image, image)) for text, images in answers.items() for image in images
    ]
    records = collection.get({id for _, id in pairs})
    if missing := next((id for _, id in pairs if id not in records), None):
        raise ConfigError(
            f"{missing} is neither the id nor the path of a record of "
            f"{collection.info.collection!r}"
        )
    return [(text, records[id]) for text, id in pairs]
