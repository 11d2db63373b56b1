"""Typed queries over drawings with all their correct answers: two tasks of `coca evaluate`.

    coca evaluate MODEL recipes/evaluate/everyday_test.yaml --plugin benchmarks/drawing_queries.py

`everyday_queries` are the 100 of `drawing_queries.yaml`. `keyword_queries` are the keywords of the
drawings' metadata that 2 to 40 drawings share. A query is answered if a correct drawing is among
the first hits, by image alone. Baselines rank by the captions alone: by BM25 of their words, and by
cosine with their vectors.

Dimensions: Q queries, N images.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.metrics.intervals import wilson_interval
from coca.metrics.retrieval import chance_recall, first_relevant_rank, retrieval_scores
from coca.predict.predictor import Predictor
from coca.search.query.query_terms import embed_queries, name_emoji
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.baselines import BASELINES, bm25_matrix, recalls
from coca.tasks.task import Example, ImageRow, ReportSamples, read_samples, thumbnail

SHARED_BY = range(2, 41)
"""Number of drawings that a keyword must name to be a query."""
QUERIES = Path(__file__).with_suffix(".yaml")
"""100 everyday queries, each with the names of all correct drawings."""
SHOWN, FOUND = 24, 5
"""Queries and hits per query in a report."""
BASELINES.update(words="BM25 of captions", captions="caption vectors")


@TASKS.register("everyday_queries")
def everyday_queries(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Compute the fraction of everyday queries with a correct drawing in the first hits."""
    samples, bad = read_samples(config.data, limit=config.limit)
    queries, relevant = match(read_answers(), samples)
    return score("everyday_queries", predictor, samples, queries, relevant, bad)


@TASKS.register("keyword_queries")
def keyword_queries(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Compute the fraction of keywords with a correct drawing in the first hits."""
    samples, bad = read_samples(config.data, limit=config.limit)
    queries, relevant = shared_keywords(samples)
    return score("keyword_queries", predictor, samples, queries, relevant, bad)


def score(
    task: str,
    predictor: Predictor,
    samples: Sequence[Sample],
    queries: Sequence[str],
    relevant: np.ndarray,
    bad: tuple[str, ...],
) -> TaskResult:
    """Score queries by image alone, with chance and the baselines by caption."""
    if not queries:
        raise DataError("no query names a drawing of the data", reason="no_overlap")
    vectors = predictor.embed_images([sample.image for sample in samples])
    embed = partial(predictor.embed_texts)
    similarity = embed_queries(embed, queries) @ vectors.T
    captions = [sample.captions[0] for sample in samples]
    words = bm25_matrix(captions, [name_emoji(query) for query in queries])
    metrics = retrieval_scores(similarity, relevant)
    metrics |= {f"chance_recall@{k}": chance_recall(relevant, k) for k in (1, 5, 10)}
    for name, ranking in {
        "words": np.where(words > 0, words, -np.inf),
        "captions": embed_queries(embed, queries) @ embed(captions).T,
    }.items():
        metrics |= {f"{name}_{it}": found for it, found in recalls(ranking, relevant).items()}
    metrics = {name.replace("recall", "success"): found for name, found in metrics.items()}
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :FOUND]
    ranks = first_relevant_rank(similarity, relevant)
    hits = [
        {"query": query, "rank": int(rank), "found": [samples[hit].key for hit in row]}
        for query, rank, row in zip(queries, ranks, best, strict=True)
    ]
    rows = tuple(
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
    intervals = {
        name: wilson_interval(metrics[name], len(queries))
        for name in (f"success@{k}" for k in (1, 5, 10))
    }
    return TaskResult(
        task,
        metrics,
        len(queries),
        bad,
        details={"queries": hits},
        headline=("success@5",),
        report_samples=ReportSamples(rows),
        intervals=intervals,
    )


def match(
    answers: Mapping[str, Sequence[str]], samples: Sequence[Sample]
) -> tuple[list[str], np.ndarray]:
    """Match answers with keys, or with the last parts of keys such as `1f697` of `vendor/1f697`.

    The selector of emoji style is left out, so that `2708` is also the key `vendor/2708-fe0f`.

    Returns:
        The queries with at least one image, and their relevant images (Q N).
    """
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        last = sample.key.rpartition("/")[2]
        for name in dict.fromkeys((sample.key, last, last.replace("-fe0f", ""))):
            rows.setdefault(name, []).append(row)
    found = {
        query: [row for key in keys for row in rows.get(key, [])] for query, keys in answers.items()
    }
    queries = [query for query, own in found.items() if own]
    relevant = np.zeros((len(queries), len(samples)), dtype=bool)
    for row, query in enumerate(queries):
        relevant[row, found[query]] = True
    return queries, relevant


def shared_keywords(samples: Sequence[Sample]) -> tuple[list[str], np.ndarray]:
    """Return the keywords that 2 to 40 samples share, and these samples (Q N).

    Samples are distinguished by position, since tars may repeat the keys of others.
    """
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        for keyword in dict.fromkeys(str(it).strip() for it in sample.metadata.get("keywords", ())):
            rows.setdefault(keyword, []).append(row)
    queries = [word for word in sorted(rows) if word and len(rows[word]) in SHARED_BY]
    relevant = np.zeros((len(queries), len(samples)), dtype=bool)
    for query, word in enumerate(queries):
        relevant[query, rows[word]] = True
    return queries, relevant


def read_answers() -> dict[str, list[str]]:
    """Read the everyday queries with the names of their correct drawings."""
    table = yaml.safe_load(QUERIES.read_text(encoding="utf-8"))
    return {query: names.split() for query, names in table.items()}
