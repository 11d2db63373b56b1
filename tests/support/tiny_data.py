"""Samples small enough for a test, and a processor for them."""

import functools
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.source import Source
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer

CAPTIONS = ("a red car", "the small cat sleeps on a long wooden bench", "two dogs play")


@functools.cache
def image_bytes(number: int, *, form: str = "PNG", side: int = 12) -> bytes:
    """An encoded image that differs from every other number's."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def make_samples(count: int, *, prefix: str = "s") -> list[Sample]:
    return [
        Sample(
            f"{prefix}{number:04d}",
            image_bytes(number),
            captions=CAPTIONS[: 1 + number % 3],
            labels=("cat", "red_panda")[: number % 3],
            metadata={"width": number},
        )
        for number in range(count)
    ]


@functools.cache
def tiny_processor() -> Processor:
    tokenizer = Tokenizer.train(CAPTIONS, vocab_size=300)
    return Processor(ImageTransform(ImageConfig(image_size=8)), tokenizer, context_length=24)


class MemorySource(Source):
    """Samples from a list; an error instead of a sample is raised when it is read."""

    def __init__(
        self, samples: Sequence[Sample | DataError], *, fingerprint: str = "m", block_size: int = 1
    ) -> None:
        self.samples = list(samples)
        self.fingerprint = fingerprint
        self.block_size = block_size

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, row: int) -> str:
        sample = self.samples[row]
        return sample.key if isinstance(sample, Sample) else f"bad{row}"

    def read(self, row: int) -> Sample:
        sample = self.samples[row]
        if isinstance(sample, DataError):
            raise sample
        return sample
