"""Image-image retrieval: an image looks for others of the same thing in another collection.

Such as a drawing by one artist among those of others. Cosine over the whole set; both sides are
embedded the same way.
"""

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.loading.text import humanize_label
from coca.data.sample import Sample
from coca.inference.predictor import Predictor
from coca.metrics.retrieval import chance_recall, first_relevant_rank, retrieval_scores
from coca.tasks.base import TASKS, TaskConfig, TaskResult, read_samples


@TASKS.register("image_retrieval")
def image_retrieval(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Recall at 1, 5 and 10 and the median rank of `data` in `reference`, beside chance.

    Two images show the same thing if they share a label; images without any are joined by
    their first caption. A query of which the reference holds no image is left out.
    """
    if config.reference is None:
        raise ConfigError("image_retrieval needs `reference`: the images that are looked through")
    asked, bad = read_samples(config.data, limit=config.limit, progress=progress)
    known, bad_known = read_samples(config.reference, progress=progress)
    relevant = _same_things(asked, known)
    answerable = np.asarray(relevant.any(axis=1))
    if not answerable.any():
        raise DataError(
            f"no label of {config.data.title} occurs in {config.reference.title}, so there is "
            "nothing to find",
            reason="no_overlap",
        )
    asked = [sample for sample, kept in zip(asked, answerable, strict=True) if kept]
    relevant = relevant[answerable]
    queries = predictor.embed_images([sample.image for sample in asked], progress=progress)
    gallery = predictor.embed_images([sample.image for sample in known], progress=progress)
    similarity = queries @ gallery.T
    scores = retrieval_scores(similarity, relevant)
    metrics = {f"image_to_image_{name}": value for name, value in scores.items()}
    for k in (1, 5, 10):
        metrics[f"chance_image_to_image_recall@{k}"] = chance_recall(relevant, k)
    ranks = first_relevant_rank(similarity, relevant)
    best = similarity.argmax(axis=1)
    examples = [
        {"picture": asked[row].key, "rank": int(ranks[row]), "found": known[best[row]].key}
        for row in range(0, len(asked), max(1, len(asked) // 20))
    ]
    return TaskResult(
        "image_retrieval", metrics, len(asked), bad + bad_known, {"examples": examples}
    )


def _same_things(asked: list[Sample], known: list[Sample]) -> Bool[ndarray, "Q K"]:
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(known):
        for name in _names(sample):
            rows.setdefault(name, []).append(row)
    same = np.zeros((len(asked), len(known)), dtype=bool)
    for place, sample in enumerate(asked):
        for name in _names(sample):
            same[place, rows.get(name, [])] = True
    return same


def _names(sample: Sample) -> list[str]:
    return [humanize_label(label) for label in sample.labels] or list(sample.captions[:1])
