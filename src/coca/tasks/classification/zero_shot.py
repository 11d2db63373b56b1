"""Zero-shot classification with prompt ensembles."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from coca.core.errors import DataError
from coca.data.loading.text import humanize_label
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.metrics.classification import top_k_accuracy
from coca.predict.predictor import Predictor
from coca.predict.prompts import sentences_of, templates_named
from coca.predict.video import embed_clips, require_single_images
from coca.tasks.baselines import EncoderClassifier
from coca.tasks.classification.recognition import classified, require_labels
from coca.tasks.reranking import best_of_each_row, reranked
from coca.tasks.task import (
    PREFLIGHT,
    TASKS,
    TaskConfig,
    TaskResult,
    read_all_metadata,
    read_samples,
)


@TASKS.register("zero_shot")
def zero_shot(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Compute top-1, top-5 and mean per-class accuracy over all classes.

    The first label of a sample is its class. Chance and majority-class accuracy are reported as
    well, and with `classifier` the accuracy of a pretrained encoder's own classifier among the same
    classes (`encoder`, see `coca.tasks.baselines`).
    """
    samples, bad = read_samples(config.data, limit=config.limit)
    names = _names(config, samples)
    indices = {name: index for index, name in enumerate(names)}
    targets = np.array([indices[humanize_label(sample.labels[0])] for sample in samples])
    scores = _scores(predictor, config, [sample.images for sample in samples], names)
    scale = predictor.logit_scale if config.by == "similarity" and not config.rerank else 1.0
    result = classified("zero_shot", scale * scores, targets, names, bad, samples=samples)
    result = replace(result, notes=_notes(config))
    if config.classifier is None:
        return result
    require_single_images([sample.images for sample in samples], "classifier")
    encoder = EncoderClassifier(config.classifier, predictor)
    images = [sample.image for sample in samples]
    by_encoder = encoder.among(names, encoder.probabilities(images))
    metrics = {
        "encoder_top1": top_k_accuracy(by_encoder, targets, 1),
        "encoder_top5": top_k_accuracy(by_encoder, targets, min(5, len(names))),
    }
    return replace(result, metrics={**result.metrics, **metrics})


@PREFLIGHT.register("zero_shot")
def check(predictor: Predictor, config: TaskConfig) -> None:
    """Check that all samples have a label among the classes, and all classes have prompts."""
    templates = templates_named(config.prompts)
    if samples := read_all_metadata(config.data, limit=config.limit):
        sentences_of(_names(config, samples), templates)


def _scores(
    predictor: Predictor,
    config: TaskConfig,
    clips: Sequence[Sequence[bytes]],
    names: Sequence[str],
) -> Float[ndarray, "N C"]:
    templates = templates_named(config.prompts)
    images = [clip[0] for clip in clips]
    if config.by == "likelihood" or config.rerank:
        require_single_images(clips, "a caption's likelihood")
    if config.by == "likelihood":
        return predictor.class_log_likelihoods(images, names, templates=templates)
    classes = predictor.class_embeddings(names, templates=templates)
    scores = embed_clips(predictor, clips, mode=config.video) @ classes.T
    if not config.rerank:
        return scores
    wanted = best_of_each_row(scores, config.rerank)
    log_p = predictor.class_log_likelihoods(images, names, templates=templates, only=wanted)
    return reranked(scores, log_p, logit_scale=predictor.logit_scale)


def _names(config: TaskConfig, samples: Sequence[Sample]) -> list[str]:
    """Return the candidate classes."""
    require_labels(samples, config.data.title)
    found = {humanize_label(sample.labels[0]) for sample in samples}
    known = list(config.classes) or _classes_of(config)
    if known and (strange := sorted(found - set(known))):
        raise DataError(
            f"{len(strange)} labels of {config.data.title} are not among the {len(known)} classes, "
            f"such as {strange[0]!r}",
            reason="unknown_label",
        )
    return known or sorted(found)


def _classes_of(config: TaskConfig) -> list[str]:
    """Return all classes of the source; empty if it cannot list them without its images.

    With `limit`, the classes of the evaluated samples alone would raise the score.
    """
    source = open_source(config.data)
    if source.classes:
        return [humanize_label(name) for name in source.classes]
    samples = read_all_metadata(config.data) if config.limit else []
    return sorted({humanize_label(sample.labels[0]) for sample in samples if sample.labels})


def _notes(config: TaskConfig) -> tuple[str, ...]:
    source = open_source(config.data)
    if not config.limit or config.classes or source.classes or source.has_metadata:
        return ()
    return (
        f"the candidates are the classes of the first {config.limit:,} samples only, which raises "
        "the score if others have more classes; set classes",
    )
