"""Pixel baseline of retrieval: nearest neighbours between 16 x 16 thumbnails, without a model.

Each query image is compared with captioned reference images. The captions of the reference are
known, so both directions of retrieval can be scored. If the model trims empty borders, the baseline
may trim them too, which raises its scores considerably.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch.nn import functional as F

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.sample import Sample
from coca.inference.predictor import Predictor
from coca.metrics.retrieval import retrieval_scores
from coca.processing.image import decode, trimmed
from coca.tasks.base import TASKS, TaskConfig, TaskResult, read_samples

THUMBNAIL_PX = 16
_SIZE = (THUMBNAIL_PX, THUMBNAIL_PX)


@TASKS.register("pixel_floor")
def pixel_baseline(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute retrieval recall of raw pixels between `data` and `reference`, in both directions.

    Images match by the first caption of the reference image.
    """
    return _baseline(config, progress, trim=False)


@TASKS.register("trimmed_pixel_floor")
def trimmed_pixel_baseline(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute the pixel baseline after trimming the empty border of each image."""
    return _baseline(config, progress, trim=True)


def _baseline(config: TaskConfig, progress: ProgressMaker, *, trim: bool) -> TaskResult:
    if config.reference is None:
        raise ConfigError(f"{config.task} needs `reference`: the source whose captions are known")
    asked, bad = read_samples(config.data, limit=config.limit, progress=progress)
    known, bad_known = read_samples(config.reference, progress=progress)
    names = [sample.captions[0] if sample.captions else "" for sample in known]
    relevant = np.array([[name in sample.captions for name in names] for sample in asked])
    paired = relevant.any(axis=1)
    reached = relevant.any(axis=0)
    if not paired.any():
        raise DataError(
            f"no caption of {config.reference.title} occurs in {config.data.title}, so there is "
            "nothing to compare",
            reason="no_overlap",
        )
    with progress("comparing pixels", None):
        similarity = -_distances(_thumbnails(asked, trim=trim), _thumbnails(known, trim=trim))
    to_text = retrieval_scores(similarity[paired], relevant[paired])
    to_image = retrieval_scores(similarity.T[reached], relevant.T[reached])
    metrics = {f"text_to_image_{name}": value for name, value in to_image.items()}
    metrics |= {f"image_to_text_{name}": value for name, value in to_text.items()}
    return TaskResult(config.task, metrics, int(paired.sum()), bad + bad_known)


def _thumbnails(samples: list[Sample], *, trim: bool) -> Float[ndarray, "N F"]:
    rows = []
    for sample in samples:
        pixels = trimmed(decode(sample.image)) if trim else decode(sample.image)
        small = F.interpolate(pixels[None].float(), _SIZE, mode="bilinear", antialias=True)
        rows.append(small.flatten() / 255)
    return torch.stack(rows).numpy()


def _distances(one: Float[ndarray, "N F"], other: Float[ndarray, "K F"]) -> Float[ndarray, "N K"]:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)
    return squares - 2 * one @ other.T
