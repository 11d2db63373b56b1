"""Linear probe on frozen image embeddings: logistic regression by L-BFGS.

The model is not trained. Embeddings are scaled to the norm sqrt(E), so that features have unit
scale.

Dimensions: N samples, E features, K classes.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch.nn import functional as F

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.sources.source import SourceConfig
from coca.metrics.classification import top_k_accuracy
from coca.runtime.base_predictor import BasePredictor
from coca.tasks.classification.recognition import class_indices, classified
from coca.tasks.task import (
    PREFLIGHT,
    TaskConfig,
    TaskResult,
    images_digest,
    read_all_metadata,
    read_samples,
)

# Multinomial logistic regression on embeddings, solved to convergence by L-BFGS.


MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LinearClassifier:
    """Weights of a linear classifier."""

    weight: Float[ndarray, "K E"]
    bias: Float[ndarray, " K"]

    def logits(self, features: Float[ndarray, "N E"]) -> Float[ndarray, "N K"]:
        """Compute the logits of each sample."""
        return features @ self.weight.T + self.bias


def fit_logistic(
    features: Float[ndarray, "N E"], targets: Int[ndarray, " N"], classes: int, *, c: float
) -> LinearClassifier:
    """Minimize c * sum(cross entropy) + ||weight||^2 / 2, without a penalty on the bias.

    This is the objective of scikit-learn's `LogisticRegression`. The fit is deterministic.
    """
    inputs = torch.from_numpy(np.asarray(features, np.float64))
    wanted = torch.from_numpy(np.asarray(targets, np.int64))
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        errors = F.cross_entropy(F.linear(inputs, weight, bias), wanted, reduction="sum")
        # As a mean, so that the solver's tolerances do not depend on the number of samples.
        total = (errors + weight.square().sum() / (2 * c)) / len(wanted)
        total.backward()
        return total

    with torch.enable_grad():
        solver.step(loss)
    return LinearClassifier(
        weight.detach().numpy().astype(np.float32), bias.detach().numpy().astype(np.float32)
    )


def choose_c(
    features: Float[ndarray, "N E"],
    targets: Int[ndarray, " N"],
    classes: int,
    *,
    candidates: tuple[float, ...],
    held_out: float = 0.2,
    seed: int = 0,
) -> float:
    """Choose the candidate with the best accuracy on a stratified held-out split.

    Ties go to the smallest candidate. `held_out` is the fraction of each class, 0 to 1.
    """
    order = np.random.default_rng(seed).permutation(len(targets))
    seen: list[int] = []
    kept: list[int] = []
    for number in range(classes):
        own = order[targets[order] == number]
        cut = round(len(own) * held_out)
        kept += own[:cut].tolist()
        seen += own[cut:].tolist()
    if not kept:
        return min(candidates)
    accuracies = []
    for c in sorted(candidates):
        layer = fit_logistic(features[seen], targets[seen], classes, c=c)
        accuracies.append(
            float((layer.logits(features[kept]).argmax(axis=1) == targets[kept]).mean())
        )
    return sorted(candidates)[int(np.argmax(accuracies))]


# Linear probing and few-shot classification on frozen image embeddings.


CANDIDATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidates for the inverse penalty C, chosen on a fifth of the training images."""

FEW_SHOT_C = 0.01
"""Inverse penalty C of few-shot classification, which has no validation images."""


def linear_probe(
    predictor: BasePredictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute top-1, top-5 and mean per-class accuracy of logistic regression on embeddings.

    The classifier is trained on `reference`, without images that `data` contains too (files with
    the same bytes). The penalty is chosen on a fifth of them, never on the evaluated samples.
    """
    sets = _embedded(predictor, config, progress)
    known, classes = sets.known, len(sets.names)
    features, targets = sets.asked
    c = config.inverse_penalty or choose_c(*known, classes, candidates=CANDIDATES)
    logits = fit_logistic(*known, classes, c=c).logits(features)
    learned_from = len(known[1])
    result = classified(
        "linear_probe",
        logits,
        targets,
        sets.names,
        sets.bad,
        inverse_penalty=c,
        learned_from=learned_from,
    )
    return replace(result, notes=sets.notes)


def few_shot(
    predictor: BasePredictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute few-shot top-1 accuracy of logistic regression: mean and spread over draws.

    Each draw samples `shots` images per class from `reference`, without those that `data` contains
    too; smaller draws are subsets of larger ones. The spread is the standard deviation over the
    draws.
    """
    sets = _embedded(predictor, config, progress)
    (features_known, targets_known), names = sets.known, sets.names
    features, targets = sets.asked
    c = config.inverse_penalty or FEW_SHOT_C
    most_frequent = float(np.bincount(targets).max() / len(targets))
    metrics, each = {}, {}
    with progress("few-shot", len(config.shots) * config.draws) as bar:
        for shots in config.shots:
            accuracy = []
            for draw in range(config.draws):
                rows = drawn_rows(targets_known, len(names), shots, seed=draw)
                layer = fit_logistic(features_known[rows], targets_known[rows], len(names), c=c)
                accuracy.append(top_k_accuracy(layer.logits(features), targets, 1))
                bar.advance()
            each[str(shots)] = accuracy
            metrics[f"top1_{shots}_shot"] = float(np.mean(accuracy))
            spread = np.std(accuracy, ddof=1) if config.draws > 1 else 0.0
            metrics[f"spread_{shots}_shot"] = float(spread)
            metrics[f"chance_top1_{shots}_shot"] = 1 / len(names)
            metrics[f"majority_top1_{shots}_shot"] = most_frequent
    details = {"classes": len(names), "draws": config.draws, "top1": each}
    headline = tuple(f"top1_{shots}_shot" for shots in config.shots)
    return TaskResult(
        "few_shot",
        metrics,
        len(targets),
        sets.bad,
        details,
        headline=headline,
        notes=sets.notes,
    )


@PREFLIGHT.register("linear_probe")
def check_probe(predictor: BasePredictor, config: TaskConfig) -> None:
    """Check that all images have a label, and that `reference` contains it."""
    _check_samples(config, minimum=1)


@PREFLIGHT.register("few_shot")
def check_few_shot(predictor: BasePredictor, config: TaskConfig) -> None:
    """Check as `check_probe`, and that each class has as many images as the largest shots."""
    _check_samples(config, minimum=max(config.shots))


def drawn_rows(
    targets: Int[ndarray, " N"], classes: int, shots: int, *, seed: int
) -> Int[ndarray, " n"]:
    """Draw the rows of `shots` samples per class; with equal seeds, draws are nested."""
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


@dataclass(frozen=True)
class _Sets:
    """Embeddings and classes of the images to learn from, and of those to classify."""

    known: tuple[Float[ndarray, "N E"], Int[ndarray, " N"]]
    asked: tuple[Float[ndarray, "M E"], Int[ndarray, " M"]]
    names: tuple[str, ...]
    """Class names."""
    bad: tuple[str, ...]
    """Errors of unreadable samples."""
    notes: tuple[str, ...]


def _embedded(predictor: BasePredictor, config: TaskConfig, progress: ProgressMaker) -> _Sets:
    """Read and embed both sets; images that are to be classified are not learned from."""
    reference = _reference(config)
    known, bad_known = read_samples(reference, progress=progress)
    asked, bad = read_samples(config.data, limit=config.limit, progress=progress)
    names = tuple(sorted({sample.labels[0] for sample in known if sample.labels}))
    targets = class_indices(known, names, reference.title)
    wanted = class_indices(asked, names, config.data.title)
    # Sets, not a matrix of all pairs, which would take 64 GB for ImageNet.
    copies = {images_digest(sample) for sample in asked}
    rows = [row for row, sample in enumerate(known) if images_digest(sample) not in copies]
    learned = [known[row] for row in rows]
    if not learned:
        raise DataError(
            f"each image of {reference.title} is also in {config.data.title}, so nothing is left "
            "to learn from; name other images as reference",
            reason="no_other_image",
        )
    notes: tuple[str, ...] = ()
    if count := len(known) - len(learned):
        notes = (
            f"{count:,} of {len(known):,} images of {reference.title} are also in "
            f"{config.data.title}; nothing is learned from them",
        )
    vectors = [
        _scaled(predictor.embed_images([sample.image for sample in some], progress=progress))
        for some in (learned, asked)
    ]
    return _Sets(
        (vectors[0], targets[rows]),
        (vectors[1], wanted),
        names,
        bad_known + bad,
        notes,
    )


def _scaled(vectors: Float[ndarray, "N E"]) -> Float[ndarray, "N E"]:
    return vectors * np.float32(vectors.shape[1] ** 0.5)


def _reference(config: TaskConfig) -> SourceConfig:
    if config.reference is None:
        raise ConfigError(f"{config.task} learns from labelled images; name them as reference")
    return config.reference
