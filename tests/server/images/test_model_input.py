from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from coca.processing import image_file
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.image_file import MAX_SQUARE_PX, trim_border
from coca.server.images.decoding.model_input import model_input
from coca.server.images.decoding.torch_resize import resize_columns, resize_rows

SIZES = [(1, 1), (7, 400), (16, 16), (33, 20), (224, 224), (480, 640), (900, 35), (2_000, 900)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels of noise; some are black or white, where rounding is clipped."""
    numbers = np.random.default_rng(seed).integers(-128, 384, (height, width, 3))
    return numbers.clip(0, 255).astype(np.uint8)


def differ(found: np.ndarray, expected: np.ndarray) -> float:
    """Compute the share of different numbers, which differ by one grey level at most."""
    apart = np.abs(found.astype(int) - expected)
    assert apart.max() <= 1
    return float((apart > 0).mean())


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_resized_as_torch_does(size: tuple[int, int], interpolation: str) -> None:
    pixels = noise(*size)
    for height, width in ((16, 16), (224, 224), (50, 300)):
        expected = F.interpolate(
            torch.from_numpy(pixels).permute(2, 0, 1)[None],
            (height, width),
            mode=interpolation,
            antialias=True,
        )[0].permute(1, 2, 0)
        found = resize_columns(resize_rows(pixels, width, interpolation), height, interpolation)
        # Without AVX2, torch itself rounds a few weights to the other side.
        assert differ(found, expected.numpy()) < 1e-3


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad", "shortest"])
@pytest.mark.parametrize("size", [(60, 90), (90, 60), (1_500, 1_100)], ids=str)
def test_the_input_is_that_of_the_library(size: tuple[int, int], resize: Any, trim: bool) -> None:
    pixels = noise(*size)
    pixels[:20], pixels[-5:], pixels[:, :9] = 240, 240, 240
    transform = ImageTransform(ImageConfig(image_size=32, resize=resize, trim=trim))
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    settings = transform.config.settings(resampler="torch")
    found = model_input(Image.fromarray(pixels), settings)
    assert differ(found, transform.square(image).permute(1, 2, 0).numpy()) < 1e-3


@pytest.mark.parametrize("size", [(9_000, 40), (30, 15_000)], ids=str)
def test_a_long_strip_needs_no_huge_square(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    pixels[:3], pixels[-3:] = 240, 240
    config = ImageConfig(image_size=32, trim=True)
    transform = ImageTransform(config)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    square = trim_border(pixels)
    assert max(size) / 3 <= square.shape[0] == square.shape[1] <= MAX_SQUARE_PX
    found = model_input(Image.fromarray(pixels), config.settings(resampler="torch"))
    assert differ(found, transform.square(image).permute(1, 2, 0).numpy()) < 1e-2


@pytest.mark.parametrize("size", [(330, 44), (44, 400)], ids=str)
def test_a_shortened_strip_looks_like_the_whole_one(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = Image.fromarray(noise(6, 6)).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse)
    transform = ImageTransform(ImageConfig(image_size=32, trim=True))
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    whole = transform.square(image).numpy().astype(int)
    monkeypatch.setattr(image_file, "MAX_SQUARE_PX", 100)
    assert image_file.trim_border(pixels).shape[0] == -(-max(size) // -(-max(size) // 100))
    assert np.abs(transform.square(image).numpy() - whole).mean() < 3
