"""Image-to-image retrieval, by the model and by raw pixels as its baseline.

An example is a drawing by one artist among the drawings of others. Similarity is the cosine over
the whole set.

Each query image is compared with captioned reference images. The captions of the reference are
known, so both directions of retrieval can be scored. If the model trims empty borders, the baseline
may trim them too, which raises its scores considerably.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch.nn import functional as F

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.loading.text import humanize_label
from coca.data.sample import Sample
from coca.metrics.intervals import wilson_interval
from coca.metrics.retrieval import chance_recall, first_relevant_rank, retrieval_scores
from coca.processing.image import decode, trimmed
from coca.runtime.audio_file import WHOLE
from coca.runtime.base_predictor import BasePredictor
from coca.tasks.task import TASKS, TaskConfig, TaskResult, images_digest, read_samples

# Image-image retrieval: find reference images of the same object as a query image.


@TASKS.register("image_retrieval")
def image_retrieval(
    predictor: BasePredictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute recall@1, 5, 10 and median rank of `data` in `reference`, with chance levels.

    Two images match if they share a label; images without labels match by their first caption.
    Queries without a matching reference image are skipped. A query is not compared with a copy of
    itself, an image whose file has the same bytes, so that `data` may be `reference`.
    """
    if config.reference is None:
        raise ConfigError("image_retrieval needs `reference`: the images to search")
    query_samples, bad = read_samples(config.data, limit=config.limit, progress=progress)
    known, bad_known = read_samples(config.reference, progress=progress)
    copies = _shared(query_samples, known, _content)
    relevant = _shared(query_samples, known, _names) & ~copies
    answerable = np.asarray(relevant.any(axis=1))
    if not answerable.any():
        raise DataError(
            f"no label of {config.data.title} occurs on another image of "
            f"{config.reference.title}, so there is nothing to find",
            reason="no_overlap",
        )
    query_samples = [sample for sample, kept in zip(query_samples, answerable, strict=True) if kept]
    relevant, copies = relevant[answerable], copies[answerable]
    queries = predictor.embed_images([sample.image for sample in query_samples], progress=progress)
    gallery = predictor.embed_images([sample.image for sample in known], progress=progress)
    similarity = np.where(copies, -np.inf, queries @ gallery.T)
    scores = retrieval_scores(similarity, relevant)
    metrics = {f"image_to_image_{name}": value for name, value in scores.items()}
    for k in (1, 5, 10):
        metrics[f"chance_image_to_image_recall@{k}"] = chance_recall(relevant, k, left_out=copies)
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
        notes=(*_copies_noted(copies, config), *_unanswered_noted(~answerable, config)),
    )


def _unanswered_noted(without: Bool[ndarray, " Q"], config: TaskConfig) -> tuple[str, ...]:
    count = int(without.sum())
    if not count or config.reference is None:
        return ()
    return (
        f"{count:,} of {len(without):,} images of {config.data.title} have no match in "
        f"{config.reference.title}; they are not queries",
    )


def _copies_noted(copies: Bool[ndarray, "Q K"], config: TaskConfig) -> tuple[str, ...]:
    count = int(copies.any(axis=1).sum())
    if not count or config.reference is None:
        return ()
    return (
        f"{count:,} of {len(copies):,} images are also in {config.reference.title}; they are not "
        "compared with themselves",
    )


def _shared(
    queries: Sequence[Sample],
    known: Sequence[Sample],
    names_of: Callable[[Sample], Sequence[str | bytes]],
) -> Bool[ndarray, "Q K"]:
    """Mark the pairs of samples that have a name in common."""
    rows: dict[str | bytes, list[int]] = {}
    for row, sample in enumerate(known):
        for name in names_of(sample):
            rows.setdefault(name, []).append(row)
    same = np.zeros((len(queries), len(known)), dtype=bool)
    for query, sample in enumerate(queries):
        for name in names_of(sample):
            same[query, rows.get(name, [])] = True
    return same


def _names(sample: Sample) -> list[str]:
    return [humanize_label(label) for label in sample.labels] or list(sample.captions[:1])


def _content(sample: Sample) -> list[bytes]:
    return [images_digest(sample)]


# Pixel baseline of retrieval: nearest neighbours between 16 x 16 thumbnails, without a model.


THUMBNAIL_PX = 16
_SIZE = (THUMBNAIL_PX, THUMBNAIL_PX)


@TASKS.register("pixel_floor")
def pixel_baseline(
    predictor: BasePredictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute retrieval recall of raw pixels between `data` and `reference`, in both directions.

    Images match by the first caption of the reference image. Copies are left out, as in
    `image_retrieval`.
    """
    return _baseline(config, progress, trim=False)


@TASKS.register("trimmed_pixel_floor")
def trimmed_pixel_baseline(
    predictor: BasePredictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute the pixel baseline after trimming the empty border of each image."""
    return _baseline(config, progress, trim=True)


def _baseline(config: TaskConfig, progress: ProgressMaker, *, trim: bool) -> TaskResult:
    if config.reference is None:
        raise ConfigError(f"{config.task} needs `reference`: the source whose captions are known")
    asked, bad = read_samples(config.data, limit=config.limit, progress=progress)
    known, bad_known = read_samples(config.reference, progress=progress)
    names = [sample.captions[0] if sample.captions else "" for sample in known]
    copies = _shared(asked, known, _content)
    named = np.array([[name in sample.captions for name in names] for sample in asked])
    relevant = named & ~copies
    paired = relevant.any(axis=1)
    reached = relevant.any(axis=0)
    if not paired.any():
        raise DataError(
            f"no caption of {config.reference.title} occurs on another image of "
            f"{config.data.title}, so there is nothing to compare",
            reason="no_overlap",
        )
    with progress("comparing pixels", None):
        distances = _distances(_thumbnails(asked, trim=trim), _thumbnails(known, trim=trim))
    similarity = np.where(copies, -np.inf, -distances)
    to_text = retrieval_scores(similarity[paired], relevant[paired])
    to_image = retrieval_scores(similarity.T[reached], relevant.T[reached])
    metrics = {f"text_to_image_{name}": value for name, value in to_image.items()}
    metrics |= {f"image_to_text_{name}": value for name, value in to_text.items()}
    return TaskResult(
        config.task,
        metrics,
        int(paired.sum()),
        bad + bad_known,
        notes=_copies_noted(copies[paired], config),
    )


def _thumbnails(samples: list[Sample], *, trim: bool) -> Float[ndarray, "N F"]:
    rows = []
    for sample in samples:
        pixels = decode(sample.image, audio_s=WHOLE)
        pixels = trimmed(pixels) if trim else pixels
        small = F.interpolate(pixels[None].float(), _SIZE, mode="bilinear", antialias=True)
        rows.append(small.flatten() / 255)
    return torch.stack(rows).numpy()


def _distances(one: Float[ndarray, "N F"], other: Float[ndarray, "K F"]) -> Float[ndarray, "N K"]:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)
    return squares - 2 * one @ other.T
