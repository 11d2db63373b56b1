"""Zero-shot classification: pictures against class names, with prompt ensembles, untrained."""

import numpy as np

from coca.core.errors import DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.text import spoken
from coca.inference.predictor import Predictor
from coca.inference.prompts import prompts_named
from coca.metrics.classification import per_class_accuracy, top_k_accuracy
from coca.tasks.base import TASKS, TaskConfig, TaskResult, read_samples
from coca.tasks.reranking import best_of_each_row, reranked


@TASKS.register("zero_shot")
def zero_shot(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Top-1, top-5 and mean per-class accuracy over all labels that occur.

    Of a sample with several labels, the first is its class. Beside the scores stand what guessing
    gives, and what always naming the most frequent class gives.
    """
    samples, bad = read_samples(config.data, limit=config.limit)
    without = [sample.key for sample in samples if not sample.labels]
    if without:
        raise DataError(
            f"{len(without)} samples of {config.data.title} have no label (such as {without[0]}); "
            "use class folders, or a label column, member or sidecar",
            reason="no_label",
        )
    answers = [spoken(sample.labels[0]) for sample in samples]
    names = sorted(set(answers))
    places = {name: place for place, name in enumerate(names)}
    targets = np.array([places[answer] for answer in answers])
    templates = prompts_named(config.prompts)
    classes = predictor.class_embeddings(names, templates=templates)
    images = [sample.image for sample in samples]
    scores = predictor.embed_images(images, progress=progress) @ classes.T
    if config.rerank:
        wanted = best_of_each_row(scores, config.rerank)
        log_p = predictor.class_log_likelihoods(
            images, names, templates=templates, only=wanted, progress=progress
        )
        scores = reranked(scores, log_p, logit_scale=predictor.logit_scale)
    accuracy = per_class_accuracy(scores.argmax(axis=1), targets, len(names))
    metrics = {
        "top1": top_k_accuracy(scores, targets, 1),
        "top5": top_k_accuracy(scores, targets, min(5, len(names))),
        "mean_per_class": float(accuracy.mean()),
        "chance_top1": 1 / len(names),
        "chance_top5": min(1.0, 5 / len(names)),
        "majority_top1": float(np.bincount(targets).max() / len(targets)),
    }
    worst = [names[place] for place in np.argsort(accuracy, kind="stable")[:10]]
    details = {"classes": len(names), "worst_classes": worst}
    return TaskResult("zero_shot", metrics, len(samples), bad, details)
