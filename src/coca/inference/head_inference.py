"""Inputs and outputs of a model's classification head.

Dimensions: N samples, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast

from numpy import ndarray
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.model.captioner import Captioner
from coca.model.config import HeadConfig
from coca.runtime.image_file import ImageSource

SampleImages: TypeAlias = ImageSource | Sequence[ImageSource]
"""The image of a sample, or its images in order."""


def head_of(model: Captioner) -> HeadConfig:
    """Return the configuration of a model's head.

    Raises:
        ConfigError: The model has no head.
    """
    if model.head is None:
        raise ConfigError(
            "this model has no head that answers; `coca finetune` gives it one, and `classify` "
            "chooses among any labels without"
        )
    return model.head.config


def check_texts(head: HeadConfig, texts: Sequence[str] | None, samples: int) -> list[str] | None:
    """Check the texts of the samples against the head.

    Raises:
        ConfigError: The head reads text and none is given, texts are given to a head that reads
            none, or their number differs from the number of samples.
    """
    if (texts is not None) != (head.reads == "text"):
        raise ConfigError(
            "this head reads text: give a question or statement for each sample"
            if texts is None
            else "this head reads images only: leave the texts out"
        )
    if texts is not None and len(texts) != samples:
        raise ConfigError(f"{len(texts)} texts were given for {samples} samples")
    return None if texts is None else list(texts)


def flatten_images(head: HeadConfig, samples: Sequence[SampleImages]) -> list[ImageSource]:
    """Flatten the samples into one list of images.

    Raises:
        DataError: A sample does not have the number of images that the head reads.
    """
    found: list[ImageSource] = []
    for position, sample in enumerate(samples):
        single = isinstance(sample, str | bytes | Path | Image.Image | ndarray)
        images = cast(Sequence[ImageSource], [sample] if single else sample)
        if len(images) != head.images_per_sample:
            raise DataError(
                f"sample {position} has {len(images)} images, but the head reads "
                f"{head.images_per_sample}",
                reason="image_count",
            )
        found += images
    return found
