"""Image-image retrieval: find reference images of the same object as a query image.

An example is a drawing by one artist among the drawings of others. Similarity is the cosine over
the whole set.
"""

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.loading.text import humanize_label
from coca.data.sample import Sample
from coca.inference.predictor import Predictor
from coca.metrics.intervals import wilson_interval
from coca.metrics.retrieval import chance_recall, first_relevant_rank, retrieval_scores
from coca.tasks.base import TASKS, TaskConfig, TaskResult, read_samples


@TASKS.register("image_retrieval")
def image_retrieval(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute recall@1, 5, 10 and median rank of `data` in `reference`, with chance levels.

    Two images match if they share a label; images without labels match by their first caption.
    Queries without a matching reference image are skipped.
    """
    if config.reference is None:
        raise ConfigError("image_retrieval needs `reference`: the images to search")
    query_samples, bad = read_samples(config.data, limit=config.limit, progress=progress)
    known, bad_known = read_samples(config.reference, progress=progress)
    relevant = _same_things(query_samples, known)
    answerable = np.asarray(relevant.any(axis=1))
    if not answerable.any():
        raise DataError(
            f"no label of {config.data.title} occurs in {config.reference.title}, so there is "
            "nothing to find",
            reason="no_overlap",
        )
    query_samples = [sample for sample, kept in zip(query_samples, answerable, strict=True) if kept]
    relevant = relevant[answerable]
    queries = predictor.embed_images([sample.image for sample in query_samples], progress=progress)
    gallery = predictor.embed_images([sample.image for sample in known], progress=progress)
    similarity = queries @ gallery.T
    scores = retrieval_scores(similarity, relevant)
    metrics = {f"image_to_image_{name}": value for name, value in scores.items()}
    for k in (1, 5, 10):
        metrics[f"chance_image_to_image_recall@{k}"] = chance_recall(relevant, k)
    ranks = first_relevant_rank(similarity, relevant)
    best = similarity.argmax(axis=1)
    examples = [
        {"query": query_samples[row].key, "rank": int(ranks[row]), "found": known[best[row]].key}
        for row in range(0, len(query_samples), max(1, len(query_samples) // 20))
    ]
    intervals = {
        name: wilson_interval(metrics[name], len(query_samples))
        for name in (f"image_to_image_recall@{k}" for k in (1, 5, 10))
    }
    return TaskResult(
        "image_retrieval",
        metrics,
        len(query_samples),
        bad + bad_known,
        {"examples": examples},
        intervals=intervals,
    )


def _same_things(queries: list[Sample], known: list[Sample]) -> Bool[ndarray, "Q K"]:
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(known):
        for name in _names(sample):
            rows.setdefault(name, []).append(row)
    same = np.zeros((len(queries), len(known)), dtype=bool)
    for query, sample in enumerate(queries):
        for name in _names(sample):
            same[query, rows.get(name, [])] = True
    return same


def _names(sample: Sample) -> list[str]:
    return [humanize_label(label) for label in sample.labels] or list(sample.captions[:1])
