"""Linear probing and few-shot classification on frozen image embeddings.

The model is not trained. Embeddings are scaled to the norm sqrt(E), so that features have unit
scale.

Dimensions: N samples, E features, K classes.
"""

from collections import Counter

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.sources.base import SourceConfig
from coca.inference.predictor import Predictor
from coca.metrics.classification import top_k_accuracy
from coca.tasks.base import (
    PREFLIGHT,
    TASKS,
    TaskConfig,
    TaskResult,
    read_all_metadata,
    read_samples,
)
from coca.tasks.classification.logistic import choose_c, fit_logistic
from coca.tasks.classification.recognition import class_indices
from coca.tasks.classification.report import classified

CANDIDATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidates for the inverse penalty C, chosen on a fifth of the training images."""

FEW_SHOT_C = 0.01
"""Inverse penalty C of few-shot classification, which has no validation images."""


@TASKS.register("linear_probe")
def linear_probe(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute top-1, top-5 and mean per-class accuracy of logistic regression on embeddings.

    The classifier is trained on `reference`. The penalty is chosen on a fifth of `reference`, never
    on the evaluated samples.
    """
    known, names, bad = _learned(predictor, config, progress)
    features, targets, more_bad = _embedded(predictor, config.data, names, config.limit, progress)
    c = config.inverse_penalty or choose_c(*known, len(names), candidates=CANDIDATES)
    layer = fit_logistic(*known, len(names), c=c)
    return classified(
        "linear_probe",
        layer.logits(features),
        targets,
        names,
        (*bad, *more_bad),
        inverse_penalty=c,
        learned_from=len(known[1]),
    )


@TASKS.register("few_shot")
def few_shot(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute few-shot top-1 accuracy of logistic regression: mean and spread over draws.

    Each draw samples `shots` images per class from `reference`; smaller draws are subsets of larger
    ones. The spread is the standard deviation over the draws.
    """
    known, names, bad = _learned(predictor, config, progress)
    targets_known = known[1]
    features, targets, more_bad = _embedded(predictor, config.data, names, config.limit, progress)
    c = config.inverse_penalty or FEW_SHOT_C
    metrics, each = {}, {}
    with progress("few-shot", len(config.shots) * config.draws) as bar:
        for shots in config.shots:
            accuracy = []
            for draw in range(config.draws):
                rows = drawn_rows(targets_known, len(names), shots, seed=draw)
                layer = fit_logistic(known[0][rows], targets_known[rows], len(names), c=c)
                accuracy.append(top_k_accuracy(layer.logits(features), targets, 1))
                bar.advance()
            each[str(shots)] = accuracy
            metrics[f"top1_{shots}_shot"] = float(np.mean(accuracy))
            spread = np.std(accuracy, ddof=1) if config.draws > 1 else 0.0
            metrics[f"spread_{shots}_shot"] = float(spread)
            metrics[f"chance_top1_{shots}_shot"] = 1 / len(names)
    metrics["majority_top1"] = float(np.bincount(targets).max() / len(targets))
    details = {"classes": len(names), "draws": config.draws, "top1": each}
    headline = tuple(f"top1_{shots}_shot" for shots in config.shots)
    bad = (*bad, *more_bad)
    return TaskResult("few_shot", metrics, len(targets), bad, details, headline=headline)


@PREFLIGHT.register("linear_probe")
def check_probe(predictor: Predictor, config: TaskConfig) -> None:
    """Check that all images have a label, and that `reference` contains it."""
    _check_samples(config, minimum=1)


@PREFLIGHT.register("few_shot")
def check_few_shot(predictor: Predictor, config: TaskConfig) -> None:
    """Check as `check_probe`, and that each class has as many images as the largest shots."""
    _check_samples(config, minimum=max(config.shots))


def drawn_rows(
    targets: Int[ndarray, " N"], classes: int, shots: int, *, seed: int
) -> Int[ndarray, " n"]:
    """Draw the rows of `shots` samples per class; with equal seeds, draws are nested.

    Raises:
        DataError: A class has fewer than `shots` samples.
    """
    order = np.random.default_rng(seed).permutation(len(targets))
    rows = [order[targets[order] == number][:shots] for number in range(classes)]
    if short := [number for number, own in enumerate(rows) if len(own) < shots]:
        raise DataError(
            f"{len(short)} classes have fewer than {shots} samples, such as number {short[0]} with "
            f"{len(rows[short[0]])}",
            reason="too_few",
        )
    return np.concatenate(rows)


def _check_samples(config: TaskConfig, *, minimum: int) -> None:
    reference = _reference(config)
    if not (samples := read_all_metadata(reference)):
        return
    counts = Counter(sample.labels[0] for sample in samples if sample.labels)
    if short := sorted(name for name, count in counts.items() if count < minimum):
        raise DataError(
            f"{reference.title} has fewer than {minimum} images of {len(short)} classes, such as "
            f"{short[0]!r} with {counts[short[0]]}; shots must not be more",
            reason="too_few",
        )
    class_indices(samples, sorted(counts), reference.title)
    class_indices(
        read_all_metadata(config.data, limit=config.limit), sorted(counts), config.data.title
    )


def _learned(
    predictor: Predictor, config: TaskConfig, progress: ProgressMaker
) -> tuple[tuple[Float[ndarray, "N E"], Int[ndarray, " N"]], tuple[str, ...], tuple[str, ...]]:
    """Return embeddings and classes of the reference, class names, and errors of bad samples."""
    reference = _reference(config)
    samples, bad = read_samples(reference, progress=progress)
    names = tuple(sorted({sample.labels[0] for sample in samples if sample.labels}))
    targets = class_indices(samples, names, reference.title)
    images = [sample.image for sample in samples]
    return (_scaled(predictor.embed_images(images, progress=progress)), targets), names, bad


def _embedded(
    predictor: Predictor,
    config: SourceConfig,
    names: tuple[str, ...],
    limit: int,
    progress: ProgressMaker,
) -> tuple[Float[ndarray, "N E"], Int[ndarray, " N"], tuple[str, ...]]:
    samples, bad = read_samples(config, limit=limit, progress=progress)
    targets = class_indices(samples, names, config.title)
    images = [sample.image for sample in samples]
    return _scaled(predictor.embed_images(images, progress=progress)), targets, bad


def _scaled(vectors: Float[ndarray, "N E"]) -> Float[ndarray, "N E"]:
    return vectors * np.float32(vectors.shape[1] ** 0.5)


def _reference(config: TaskConfig) -> SourceConfig:
    if config.reference is None:
        raise ConfigError(f"{config.task} learns from labelled images; name them as reference")
    return config.reference
