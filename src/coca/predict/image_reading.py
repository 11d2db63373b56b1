"""What a model reads in one image: a caption, and the support and place of words.

The support of a word is log p(word | "a photo of a", image) less the same without an image, where
all image tokens are zeros: pointwise mutual information in nats, summed over the tokens of the word
without the end of the caption.

Dimensions: M words, h and w cells of a map along the sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float32
from numpy import ndarray

BEFORE_WORD = "a photo of a"
"""Beginning of the caption that a word continues. Of 600 photos, each with the name of its class
and 15 others, support separates the right name with an AUC of 0.890; 0.880 after the start token
alone, 0.851 against the prior of a grey image, and 0.881 against that of the mean of image
tokens."""


@dataclass(frozen=True)
class WordReading:
    """How much an image supports one word, and where."""

    word: str
    log_p: float
    """In nats."""
    support: float
    """`log_p` less that without an image, in nats; below 0 the image speaks against the word."""
    map: list[list[float]] | None
    """Cosine of the word and of each cell of the image, embedded alone; rows from the top. None
    with ONNX Runtime, and if the decoder of the model reads pooled tokens instead of cells."""


@dataclass(frozen=True)
class ImageReading:
    """What a model reads in an image."""

    caption: str = ""
    words: tuple[WordReading, ...] = ()


def read_words(
    words: Sequence[str],
    scores: Float32[ndarray, "2 M1"],
    maps: Float32[ndarray, "M h w"] | None,
) -> tuple[WordReading, ...]:
    """Compute support from scores with and without the image of `BEFORE_WORD`, then of words."""
    log_ps, priors = (scores[:, 1:] - scores[:, :1]).tolist()
    grids = [None] * len(words) if maps is None else maps.tolist()
    supports = [log_p - prior for log_p, prior in zip(log_ps, priors, strict=True)]
    return tuple(map(WordReading, words, log_ps, supports, grids))
