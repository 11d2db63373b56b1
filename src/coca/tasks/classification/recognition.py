"""Image classification by a trained head: frozen features or fine-tuning (section 4.2)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.sample import Sample
from coca.inference.head_inference import head_of
from coca.inference.predictor import Predictor
from coca.model.config import HeadConfig
from coca.tasks.base import (
    PREFLIGHT,
    TASKS,
    TaskConfig,
    TaskResult,
    read_all_metadata,
    read_samples,
)
from coca.tasks.classification.report import classified


@TASKS.register("recognition")
def recognition(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute top-1, top-5 and mean per-class accuracy over the classes of the model's head.

    The first label of a sample is its class. Samples have as many images as the head reads. Chance
    and majority-class accuracy are reported as well.
    """
    head = _image_head(predictor)
    samples, bad = read_samples(config.data, limit=config.limit, progress=progress)
    targets = class_indices(samples, head.classes, config.data.title)
    logits = predictor.head_logits([sample.images for sample in samples], progress=progress)
    return classified("recognition", logits, targets, head.classes, bad, samples=samples)


@PREFLIGHT.register("recognition")
def check(predictor: Predictor, config: TaskConfig) -> None:
    """Check that the head reads images, and that it has all labels of the data."""
    head = _image_head(predictor)
    samples = read_all_metadata(config.data, limit=config.limit)
    class_indices(samples, head.classes, config.data.title)


def class_indices(
    samples: Sequence[Sample], classes: Sequence[str], title: str
) -> Int[ndarray, " N"]:
    """Return the index of each sample's class in `classes`.

    Raises:
        DataError: A sample has no label, or a label that is not in `classes`.
    """
    if without := [sample.key for sample in samples if not sample.labels]:
        raise DataError(
            f"{len(without)} samples of {title} have no label (such as {without[0]}); use class "
            "folders, or a label column, member or sidecar",
            reason="no_label",
        )
    indices = {name: index for index, name in enumerate(classes)}
    if strange := sorted({sample.labels[0] for sample in samples} - indices.keys()):
        raise DataError(
            f"{title} has {len(strange)} classes that training has not, such as {strange[0]!r}; "
            f"known are {len(indices)}, such as {classes[0]!r}",
            reason="unknown_label",
        )
    return np.array([indices[sample.labels[0]] for sample in samples], np.int64)


def _image_head(predictor: Predictor) -> HeadConfig:
    head = head_of(predictor.model)
    if head.reads != "image":
        raise ConfigError("the model's head reads text; recognition needs a head that reads images")
    return head
