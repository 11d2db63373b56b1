"""Retrieval by synonyms that no training caption contains.

Each caption with a listed word is searched for twice: as it is, and with the word replaced by a
synonym. A model that reads a synonym as its word finds the image as well as before. Each synonym
is also searched for alone.

Dimensions: Q queries, N images.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from jaxtyping import Bool
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.loading.text import humanize_label
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.source import read_metadata
from coca.metrics.intervals import mean_interval
from coca.metrics.retrieval import chance_recall, first_relevant_rank
from coca.runtime.base_predictor import BasePredictor
from coca.tasks.task import (
    PREFLIGHT,
    TASKS,
    TaskConfig,
    TaskResult,
    read_all_metadata,
    read_samples,
    require_captions,
)

CAPTIONS_PER_PAIR = 20
"""Maximum number of captions in which one word is replaced by one synonym, spread over the set."""

RANKS = (1, 5, 10)


class Pair(NamedTuple):
    """A word of captions and a synonym."""

    word: str
    synonym: str


class _Query(NamedTuple):
    """A caption with a word, with its synonym, and without; `owner` is the row of its image."""

    pair: Pair
    owner: int
    original: str
    replaced: str
    without: str


@TASKS.register("synonyms")
def synonyms(
    predictor: BasePredictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute recall@1, 5 and 10 of captions with a synonym in place of a word.

    Each pair of word and synonym has the same weight, however many captions it has. `reference`
    names the training data: synonyms that occur in its captions or labels are left out.

    Metrics:
        synonym_recall@k: the caption with the synonym finds its image.
        original_recall@k: the caption with the word does.
        without_synonym_recall@k: a baseline, the caption without the word does.
        alone_recall@k: the synonym alone finds an image whose captions contain the word.
    """
    samples, bad = read_samples(config.data, limit=config.limit, progress=progress)
    require_captions(samples, config)
    pairs = read_pairs(config.synonyms)
    seen = _seen({pair.synonym for pair in pairs}, config, progress)
    unseen = [pair for pair in pairs if pair.synonym not in seen]
    queries = [query for pair in unseen for query in _queries(pair, samples)]
    if not queries:
        raise DataError(
            f"no caption of {config.data.title} contains a word with an unseen synonym "
            f"({len(pairs) - len(unseen)} of {len(pairs)} synonyms occur in the reference)",
            reason="no_overlap",
        )
    kept = list(dict.fromkeys(query.pair for query in queries))
    images = predictor.embed_images([sample.image for sample in samples], progress=progress)
    own = np.zeros((len(queries), len(samples)), dtype=bool)
    own[np.arange(len(queries)), [query.owner for query in queries]] = True
    having = {word: _images_with(word, samples) for word in {pair.word for pair in kept}}
    relevant = np.stack([having[pair.word] for pair in kept])
    ranks = {
        name: first_relevant_rank(predictor.embed_texts(texts, progress=progress) @ images.T, of)
        for name, texts, of in (
            ("synonym", [query.replaced for query in queries], own),
            ("original", [query.original for query in queries], own),
            ("without_synonym", [query.without for query in queries], own),
            ("alone", [pair.synonym for pair in kept], relevant),
        )
    }
    rows = {pair: [row for row, it in enumerate(queries) if it.pair == pair] for pair in kept}
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for k in RANKS:
        found = {name: ranks[name] <= k for name in ranks}
        for name in ("synonym", "original", "without_synonym"):
            each = np.array([found[name][rows[pair]].mean() for pair in kept])
            metrics[f"{name}_recall@{k}"] = float(each.mean())
            if len(each) > 1 and name != "without_synonym":
                intervals[f"{name}_recall@{k}"] = mean_interval(each)
        for name in ("synonym", "original"):
            metrics[f"chance_{name}_recall@{k}"] = chance_recall(own, k)
        metrics[f"alone_recall@{k}"] = float(found["alone"].mean())
        metrics[f"chance_alone_recall@{k}"] = chance_recall(relevant, k)
    metrics["pairs"] = float(len(kept))
    details = {
        "left_out": sorted({pair.synonym for pair in pairs if pair.synonym in seen}),
        "pairs": [
            {
                "word": pair.word,
                "synonym": pair.synonym,
                "captions": len(rows[pair]),
                "synonym_recall@10": float((ranks["synonym"][rows[pair]] <= 10).mean()),
                "original_recall@10": float((ranks["original"][rows[pair]] <= 10).mean()),
                "alone_rank": int(ranks["alone"][row]),
            }
            for row, pair in enumerate(kept)
        ],
    }
    headline = ("synonym_recall@10", "original_recall@10")
    return TaskResult(
        "synonyms", metrics, len(samples), bad, details, headline=headline, intervals=intervals
    )


@PREFLIGHT.register("synonyms")
def check(predictor: BasePredictor, config: TaskConfig) -> None:
    """Check the list of synonyms, and that all images have captions."""
    read_pairs(config.synonyms)
    require_captions(read_all_metadata(config.data, limit=config.limit), config)


def read_pairs(path: str) -> list[Pair]:
    """Read a YAML file that maps words to lists of synonyms; "" is the list of this package."""
    try:
        text = (
            Path(path).read_text(encoding="utf-8")
            if path
            else files("coca.tasks.retrieval").joinpath("synonyms.yaml").read_text(encoding="utf-8")
        )
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"synonyms {path!r} cannot be read: {error}") from error
    if not isinstance(content, Mapping) or not all(
        isinstance(word, str)
        and isinstance(named, list)
        and all(isinstance(it, str) for it in named)
        for word, named in content.items()
    ):
        raise ConfigError(f"synonyms {path!r} must map each word to a list of synonyms")
    return [Pair(word.lower(), it.lower()) for word, named in content.items() for it in named]


def _seen(synonyms: set[str], config: TaskConfig, progress: ProgressMaker) -> set[str]:
    """Return the synonyms that captions and labels of the reference contain; none without one."""
    if config.reference is None:
        return set()
    source = open_source(config.reference)
    unseen = {synonym: _pattern(synonym) for synonym in synonyms}
    any_unseen = _pattern(*unseen)
    with progress(f"reading {config.reference.title}", len(source)) as bar:
        for row in range(len(source)):
            try:
                sample = read_metadata(source, row)
            except DataError:
                continue
            finally:
                bar.advance()
            text = "\n".join((*sample.captions, *map(humanize_label, sample.labels)))
            if any_unseen.search(text):
                unseen = {it: pattern for it, pattern in unseen.items() if not pattern.search(text)}
                any_unseen = _pattern(*unseen)
    return synonyms - unseen.keys()


def _queries(pair: Pair, samples: Sequence[Sample]) -> Iterator[_Query]:
    """Yield captions that contain the word, spread over the samples."""
    pattern, synonym = _pattern(pair.word), _pattern(pair.synonym)
    found = [
        _Query(pair, row, caption, pattern.sub(pair.synonym, caption), pattern.sub("", caption))
        for row, sample in enumerate(samples)
        for caption in sample.captions
        if pattern.search(caption) and not synonym.search(caption)
    ]
    step = max(1, -(-len(found) // CAPTIONS_PER_PAIR))
    return iter(found[::step])


def _images_with(word: str, samples: Sequence[Sample]) -> Bool[ndarray, " N"]:
    pattern = _pattern(word)
    return np.array([any(map(pattern.search, sample.captions)) for sample in samples])


def _pattern(*words: str) -> re.Pattern[str]:
    """Match any of the words as a whole; nothing without a word."""
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words)) or '(?!)'})\b", re.IGNORECASE)
