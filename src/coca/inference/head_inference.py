"""What a head is asked, image by image, and what it answers.

Dimensions: N samples, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.model.captioner import Captioner
from coca.model.config import HeadConfig
from coca.processing.image import ImageSource

Shown: TypeAlias = ImageSource | Sequence[ImageSource]
"""The image of a sample, or all of them in order."""


@dataclass(frozen=True)
class Prediction:
    """A label and how sure the model is of it."""

    label: str
    probability: float
    """0 to 1; sums to 1 over the labels that were offered."""


def predictions(logits: Float[ndarray, "N K"], labels: Sequence[str]) -> list[list[Prediction]]:
    """The labels of each sample, the surest first."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    return [
        [Prediction(labels[k], float(row[k])) for k in np.argsort(-row, kind="stable")]
        for row in probabilities
    ]


def head_of(model: Captioner) -> HeadConfig:
    """The settings of a model's head.

    Raises:
        ConfigError: It has none.
    """
    if model.head is None:
        raise ConfigError(
            "this model has no head that answers; `coca finetune` gives it one, and `classify` "
            "chooses among any labels without"
        )
    return model.head.config


def asked_of(head: HeadConfig, texts: Sequence[str] | None, samples: int) -> list[str] | None:
    """The words that go with each sample.

    Raises:
        ConfigError: There are none although the head reads words, or too few, or it reads none.
    """
    if (texts is not None) != (head.reads == "words"):
        raise ConfigError(
            "this head reads words: give what is asked of each sample"
            if texts is None
            else "this head reads images only; texts would change nothing"
        )
    if texts is not None and len(texts) != samples:
        raise ConfigError(f"{len(texts)} texts were given for {samples} samples")
    return None if texts is None else list(texts)


def pictures_of(head: HeadConfig, samples: Sequence[Shown]) -> list[ImageSource]:
    """The images of samples one after the other.

    Raises:
        DataError: A sample has another number of images than the head reads.
    """
    found: list[ImageSource] = []
    for place, sample in enumerate(samples):
        single = isinstance(sample, str | bytes | Path | Image.Image | ndarray)
        pictures = cast(Sequence[ImageSource], [sample] if single else sample)
        if len(pictures) != head.pictures:
            raise DataError(
                f"sample {place} has {len(pictures)} images, but the head reads {head.pictures}",
                reason="picture_count",
            )
        found += pictures
    return found
