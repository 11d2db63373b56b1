"""Images as CLIP's descendants see them, against open_clip; and large JPEG files read in part."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from torch import Tensor

from coca.processing.image import ImageConfig, ImageTransform, decode

Encode = Callable[..., bytes]

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OURS = ImageTransform(ImageConfig(image_size=224, resize="shortest", mean=MEAN, std=STD))


def theirs(data: bytes, *, interpolation: str = "bicubic") -> Tensor:
    transform = image_transform(224, is_train=False, interpolation=interpolation)
    pixels: Tensor = transform(Image.open(io.BytesIO(data)))
    return pixels


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize(
    ("height", "width"),
    [(224, 224), (225, 224), (224, 301), (37, 53), (500, 375), (375, 501), (900, 20), (1, 200)],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_noise_of_any_shape_gives_the_pixels_of_open_clip(
    encode: Encode, height: int, width: int, form: str
) -> None:
    data = encode(noise(height, width), form)
    torch.testing.assert_close(OURS(decode(data)), theirs(data), atol=1e-5, rtol=0)


def test_bilinear_images_equal_those_of_open_clip(encode: Encode) -> None:
    config = ImageConfig(
        image_size=224, resize="shortest", mean=MEAN, std=STD, interpolation="bilinear"
    )
    data = encode(noise(300, 400), "PNG")
    wanted = theirs(data, interpolation="bilinear")
    torch.testing.assert_close(ImageTransform(config)(decode(data)), wanted, atol=1e-5, rtol=0)


STRIP = """
import resource, sys
import numpy as np
import torch
from coca.processing.image import ImageConfig, ImageTransform
strip = np.zeros((3, 60_000, 2), np.uint8)
strip[:, 29_000:31_000] = 200
pixels = torch.from_numpy(strip if sys.argv[1] == "upright" else strip.swapaxes(1, 2).copy())
transform = ImageTransform(ImageConfig(image_size=224, resize="shortest"))
transform.resize(pixels[:, :64, :64])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = transform.resize(pixels)
assert small.shape == (3, 224, 224)
assert (small == 200).all()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["upright", "lying"])
def test_an_endless_strip_is_cut_before_it_fills_the_memory(direction: str) -> None:
    command = [sys.executable, "-c", STRIP, direction]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 500  # MiB; 4,000 as a whole


# Large JPEG files, read at a half, a quarter or an eighth


@pytest.fixture
def large(encode: Encode) -> bytes:
    """A photo-like JPEG of 800 x 1200 pixels."""
    y, x = np.mgrid[0:800, 0:1200]
    slopes = np.stack([x / 5, y / 4, 128 + 90 * np.sin(x / 50) * np.cos(y / 70)], -1)
    slopes[200:500, 300:700] = (250, 20, 40)
    return encode(Image.fromarray(slopes.clip(0, 255).astype(np.uint8)), "JPEG", quality=90)


@pytest.mark.parametrize(
    ("at_least", "height", "width"),
    [(800, 800, 1200), (401, 800, 1200), (400, 400, 600), (200, 200, 300), (64, 100, 150)],
)
def test_no_side_becomes_smaller_than_needed(
    large: bytes, at_least: int, height: int, width: int
) -> None:
    assert decode(large, at_least=at_least).shape == (3, height, width)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad", "shortest"])
def test_an_image_read_in_part_looks_the_same(large: bytes, resize: str) -> None:
    config = {"image_size": 96, "resize": resize, "mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    whole = ImageTransform(ImageConfig(**config))  # type: ignore[arg-type]
    part = ImageTransform(ImageConfig(**config, reduced=True))  # type: ignore[arg-type]
    assert part.read(large).shape == (3, 100, 150)
    assert whole.read(large).shape == (3, 800, 1200)
    difference = (part(part.read(large)) - whole(whole.read(large))).abs()
    assert difference.mean() < 1


def test_a_small_jpeg_and_other_formats_are_read_in_full(
    encode: Encode, large: bytes, tmp_path: Path
) -> None:
    part = ImageTransform(ImageConfig(image_size=96, reduced=True))
    small = encode(noise(150, 180), "JPEG")
    assert part.read(small).equal(decode(small))
    image = Image.open(io.BytesIO(large))
    png = encode(image, "PNG")
    assert part.read(png).shape == (3, 800, 1200)
    # An image that the caller has opened is left as it was.
    opened = Image.open(io.BytesIO(large))
    assert part.read(opened).shape == (3, 800, 1200)
    assert opened.size == (1200, 800)


def test_an_image_read_in_part_is_turned_upright(large: bytes, encode: Encode) -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = encode(Image.open(io.BytesIO(large)), "JPEG", exif=exif)
    assert decode(turned, at_least=200).shape == (3, 300, 200)
