"""Keyword search: whether a correct image is among the first hits of a typed query.

Retrieval with several correct images per query, as a person searches: "car" is answered by any car.

Dimensions: Q queries, N images.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.sample import Sample
from coca.metrics.intervals import wilson_interval
from coca.metrics.retrieval import chance_recall, first_relevant_rank, retrieval_scores
from coca.runtime.base_predictor import BasePredictor
from coca.search.query.query_terms import embed_queries, name_emoji
from coca.tasks.baselines import EncoderClassifier, caption_baselines, recalls
from coca.tasks.reranking import rerank
from coca.tasks.task import (
    PREFLIGHT,
    TASKS,
    Example,
    ImageRow,
    ReportSamples,
    TaskConfig,
    TaskResult,
    read_samples,
    thumbnail,
)

SHARED_BY = range(2, 41)
"""Number of images that a keyword of the metadata must name to be a query."""
EVERYDAY = Path(__file__).with_name("everyday.yaml")
"""100 everyday queries over emoji drawings, with all correct drawings."""
SHOWN, FOUND = 24, 5
"""Queries and hits per query in a report."""


@TASKS.register("keyword_search")
def keyword_search(
    predictor: BasePredictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute the fraction of queries with a correct image among the first 1, 5 and 10 hits.

    The queries are a file or the keywords in the samples' metadata, see `TaskConfig.queries`. File
    entries that name no image of the data are ignored; queries without any image are skipped and
    listed in the details. Queries are embedded as those of `coca search`, see
    `coca.search.query.query_terms`. With `rerank`, the top hits of each query are reranked by
    caption likelihood.

    Where the images have captions, the same queries are also ranked by the captions alone (`words`
    and `captions`, see `coca.tasks.baselines`); the score of the model reads no caption.
    """
    answers = read_answers(config.queries)
    samples, bad = read_samples(config.data, limit=config.limit, progress=progress)
    if answers is None:
        queries, relevant = shared_keywords(samples, config.queries)
        skipped: list[str] = []
    else:
        queries, relevant, skipped = match(answers, samples)
    if not queries:
        raise DataError(
            f"no query of {config.queries} names an image of {config.data.title}",
            reason="no_overlap",
        )
    images = [sample.image for sample in samples]
    image_vectors = predictor.embed_images(images, progress=progress)
    embed = partial(predictor.embed_texts, progress=progress)
    similarity = embed_queries(embed, queries) @ image_vectors.T
    if config.rerank:
        named = [name_emoji(query) for query in queries]
        similarity = rerank(
            similarity, predictor, images, named, k=config.rerank, both=False, progress=progress
        )
    scores = retrieval_scores(similarity, relevant)
    metrics = {name.replace("recall", "success"): value for name, value in scores.items()}
    for k in (1, 5, 10):
        metrics[f"chance_success@{k}"] = chance_recall(relevant, k)
    baselines = caption_baselines(predictor, queries, samples, relevant)
    if config.classifier is not None:
        encoder = EncoderClassifier(config.classifier, predictor)
        classes = encoder.probabilities(images, progress=progress)
        named = [name_emoji(query) for query in queries]
        baselines["encoder"] = recalls(encoder.match_texts(named, classes), relevant)
    for prefix, found in baselines.items():
        metrics |= {
            f"{prefix}_{name}".replace("recall", "success"): value for name, value in found.items()
        }
    ranks = first_relevant_rank(similarity, relevant)
    intervals = {
        name: wilson_interval(metrics[name], len(queries))
        for name in (f"success@{k}" for k in (1, 5, 10))
    }
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :FOUND]
    results = [
        {"query": query, "rank": int(ranks[row]), "found": [samples[hit].key for hit in best[row]]}
        for row, query in enumerate(queries)
    ]
    return TaskResult(
        "keyword_search",
        metrics,
        len(queries),
        bad,
        {"queries": results, "skipped": skipped},
        headline=("success@5",),
        report_samples=ReportSamples(_rows(queries, samples, similarity, relevant, best)),
        intervals=intervals,
    )


@PREFLIGHT.register("keyword_search")
def check(predictor: BasePredictor, config: TaskConfig) -> None:
    """Check that the queries can be read."""
    del predictor
    read_answers(config.queries)


def shared_keywords(
    samples: Sequence[Sample], field: str
) -> tuple[list[str], Bool[ndarray, "Q N"]]:
    """Return the keywords of a metadata field that 2 to 40 samples share, and these samples.

    Samples are distinguished by position, since tars may repeat the keys of others.
    """
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        keywords = sample.metadata.get(field)
        if isinstance(keywords, list):
            for keyword in dict.fromkeys(str(it).strip() for it in keywords):
                rows.setdefault(keyword, []).append(row)
    if not rows:
        raise DataError(
            f"queries is {field!r}, which is neither a YAML or JSON file nor a list in the "
            "metadata of the samples",
            reason="no_queries",
        )
    queries = [word for word in sorted(rows) if word and len(rows[word]) in SHARED_BY]
    relevant = np.zeros((len(queries), len(samples)), dtype=bool)
    for query, word in enumerate(queries):
        relevant[query, rows[word]] = True
    return queries, relevant


def match(
    answers: Mapping[str, Sequence[str]], samples: Sequence[Sample]
) -> tuple[list[str], Bool[ndarray, "Q N"], list[str]]:
    """Match answers with keys, or with the last parts of keys such as `1f697` of `vendor/1f697`.

    The selector of emoji style is left out, so that `2708` is also the key `vendor/2708-fe0f`.

    Returns:
        The queries with at least one image, their relevant images, and the skipped queries.
    """
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        last = sample.key.rpartition("/")[2]
        for name in dict.fromkeys((sample.key, last, last.replace("-fe0f", ""))):
            rows.setdefault(name, []).append(row)
    relevant = np.zeros((len(answers), len(samples)), dtype=bool)
    for query, keys in enumerate(answers.values()):
        relevant[query, [row for key in keys for row in rows.get(key, [])]] = True
    answered = [bool(row.any()) for row in relevant]
    queries = [query for query, kept in zip(answers, answered, strict=True) if kept]
    skipped = [query for query, kept in zip(answers, answered, strict=True) if not kept]
    return queries, relevant[np.array(answered, dtype=bool)], skipped


def read_answers(queries: str) -> dict[str, list[str]] | None:
    """Read the answers of a file; None if `queries` is the name of a metadata field."""
    path = EVERYDAY if queries == "everyday" else Path(queries)
    if path.suffix not in (".yaml", ".yml", ".json"):
        return None
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"queries {queries} cannot be read: {error}") from error
    if not isinstance(table, dict) or not table:
        raise ConfigError(f"queries {queries} must map each query to its images, got {table!r:.80}")
    answers = {}
    for query, keys in table.items():
        named = keys.split() if isinstance(keys, str) else keys
        if not isinstance(named, list) or not all(isinstance(it, str) for it in named):
            raise ConfigError(
                f"the images of query {query!r} in {queries} must be keys in a list or separated "
                f"by spaces, got {keys!r:.80}"
            )
        answers[str(query)] = named
    return answers


def _rows(
    queries: Sequence[str],
    samples: Sequence[Sample],
    similarity: Float[ndarray, "Q N"],
    relevant: Bool[ndarray, "Q N"],
    best: Int[ndarray, "Q F"],
) -> tuple[ImageRow, ...]:
    """Show queries spread over the set with their first hits."""
    return tuple(
        ImageRow(
            f"“{queries[row]}”",
            tuple(
                Example(
                    (f"{similarity[row, hit]:.2f}",),
                    thumbnail(samples[hit].image),
                    bool(relevant[row, hit]),
                )
                for hit in best[row].tolist()
            ),
        )
        for row in range(0, len(queries), max(1, -(-len(queries) // SHOWN)))
    )
