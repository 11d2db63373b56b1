"""The floor under any learned model: the nearest thumbnail among pictures with known names.

A picture is answered by the reference picture whose 16 x 16 thumbnail is nearest. Which picture a
text means is known there, so both directions of retrieval can be scored without any model.
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
from coca.processing.image import decode
from coca.tasks.base import TASKS, TaskConfig, TaskResult, read_samples

THUMBNAIL_PX = 16


@TASKS.register("pixel_floor")
def pixel_floor(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Recall both ways of raw pixels between `data` and `reference`, joined by first caption."""
    if config.reference is None:
        raise ConfigError("pixel_floor needs `reference`: the source whose captions are known")
    asked, bad = read_samples(config.data, limit=config.limit)
    known, bad_known = read_samples(config.reference)
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
        similarity = -_distances(_thumbnails(asked), _thumbnails(known))
    to_text = retrieval_scores(similarity[paired], relevant[paired])
    to_image = retrieval_scores(similarity.T[reached], relevant.T[reached])
    metrics = {f"text_to_image_{name}": value for name, value in to_image.items()}
    metrics |= {f"image_to_text_{name}": value for name, value in to_text.items()}
    return TaskResult("pixel_floor", metrics, int(paired.sum()), bad + bad_known)


def _thumbnails(samples: list[Sample]) -> Float[ndarray, "N F"]:
    rows = []
    for sample in samples:
        pixels = decode(sample.image)[None].float()
        small = F.interpolate(pixels, (THUMBNAIL_PX, THUMBNAIL_PX), mode="bilinear", antialias=True)
        rows.append(small.flatten() / 255)
    return torch.stack(rows).numpy()


def _distances(one: Float[ndarray, "N F"], other: Float[ndarray, "K F"]) -> Float[ndarray, "N K"]:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)
    return squares - 2 * one @ other.T
