"""Outputs of a model as captions and class probabilities.

Dimensions: N samples, K classes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, cast

from numpy import ndarray
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.model.captioner import Captioner
from coca.model.coca_config import HeadConfig
from coca.model.generation.generation_config import GeneratedSequence
from coca.processing.tokenizer import TextTokenizer
from coca.runtime.image_file import ImageSource
from coca.runtime.inputs import Caption

# Captions as text: generated token sequences decoded, with their scores.


__all__ = ["Caption", "captions_of"]


def captions_of(
    written: Sequence[GeneratedSequence], tokenizer: TextTokenizer, *, prompt: Sequence[int]
) -> Caption:
    """Decode the generated sequences of an image: the best caption, with the rest in `others`.

    Args:
        written: Generated sequences, best first; at least one.
        tokenizer: The model's tokenizer.
        prompt: Token ids of the prompt, [BOS] first.
    """
    first, *others = (_caption(one, tokenizer, prompt) for one in written)
    return replace(first, others=tuple(others))


def _caption(
    written: GeneratedSequence, tokenizer: TextTokenizer, prompt: Sequence[int]
) -> Caption:
    # Prompt and completion are decoded together, since a word may span their boundary.
    text = tokenizer.decode([*prompt[1:], *written.token_ids]).strip()
    completion = tokenizer.decode(written.token_ids).strip()
    return Caption(
        text,
        completion,
        written.total,
        tuple(written.token_ids),
        tuple(written.log_probabilities),
        rank_score=written.rank,
    )


# Inputs and outputs of a model's classification head.


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
