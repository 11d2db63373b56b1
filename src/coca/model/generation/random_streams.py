"""Random numbers of sampling, equal for torch and exported models.

Dimensions: B images, K samples an image, S steps.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Float32, Float64


def image_numbers(images: Float32[np.ndarray, "B *F RGB height width"]) -> list[int]:
    """Compute a number of each image or clip from its pixels, for the random stream of its samples.

    Not from the encoder's output, whose last bits depend on the rest of the batch.
    """
    rows = np.ascontiguousarray(images)
    return [int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest()) for row in rows]


def sample_streams(
    seed: int, images: Sequence[int], *, samples: int, steps: int
) -> Float64[np.ndarray, "B K S"]:
    """Draw a random number of each step of each sample, at least 0 and below 1.

    Each sample of an image has its own stream, so that the rest of the batch has no effect.
    `images` has a number of each image.
    """
    # 32 bits, so that no number is rounded to 1.
    streams = [
        np.random.default_rng((seed, sample, image)).integers(2**32, size=steps)
        for image in images
        for sample in range(samples)
    ]
    return np.array(streams, np.float64).reshape(len(images), samples, steps) / 2**32
