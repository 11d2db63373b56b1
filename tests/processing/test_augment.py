import math
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coca.core.errors import ConfigError
from coca.processing.augment import (
    RAND_OPERATIONS,
    Augment,
    AugmentConfig,
    inked,
    rand_augment,
    recolor,
    warp,
)
from coca.processing.image import ImageConfig, ImageTransform

SIDE = 24
MEAN = 128
"""The byte nearest to the middle of the range, which is the mean colour of `image_config`."""

EVERYTHING: dict[str, Any] = {
    "min_scale": 0.3,
    "flip": 0.5,
    "rotate_deg": 20.0,
    "zoom": 0.2,
    "translate": 0.1,
    "color": 0.5,
    "grayscale": 0.2,
    "outline": 0.5,
    "rand_augment": (2, 15),
    "erase": 0.5,
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_config(**fields: Any) -> ImageConfig:
    return ImageConfig(**{"image_size": SIDE, **fields})


def augment(**fields: Any) -> Augment:
    return Augment(AugmentConfig(**fields), image_config())


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 30, 41), dtype=torch.uint8, generator=seeded(0))


# Laws


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_with_nothing_switched_on_it_equals_the_plain_transform(
    pixels: Tensor, resize: str
) -> None:
    config = image_config(resize=resize)
    changed = Augment(AugmentConfig(), config)(pixels, seeded(1))
    assert torch.equal(changed, ImageTransform(config).square(pixels))


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    resize=st.sampled_from(["squash", "crop", "pad"]),
    min_scale=st.floats(0.01, 1),
    seed=st.integers(0, 2**31),
)
def test_any_image_gives_a_square_of_bytes_that_the_generator_alone_decides(
    shape: tuple[int, int], resize: str, min_scale: float, seed: int
) -> None:
    pixels = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=seeded(seed))
    config = AugmentConfig(**{**EVERYTHING, "min_scale": min_scale})
    change = Augment(config, image_config(resize=resize))
    kept, global_state = pixels.clone(), torch.get_rng_state()
    once, again = change(pixels, seeded(seed)), change(pixels, seeded(seed))
    assert once.shape == (3, SIDE, SIDE)
    assert once.dtype == torch.uint8
    assert torch.equal(once, again)
    assert torch.equal(pixels, kept)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_switching_one_step_on_leaves_the_draws_of_the_others(pixels: Tensor) -> None:
    for seed in range(20):
        plain = augment(min_scale=0.5, flip=0.5)(pixels, seeded(seed))
        boxed = augment(min_scale=0.5, flip=0.5, erase=1.0)(pixels, seeded(seed))
        kept = boxed != MEAN
        assert torch.equal(plain[kept], boxed[kept])


# Crop and flip


@pytest.mark.parametrize("shape", [(200, 200), (100, 400)])
def test_a_crop_keeps_the_promised_share_of_the_area(shape: tuple[int, int]) -> None:
    height, width = shape
    y = torch.linspace(0, 255, height).view(1, -1, 1).expand(1, height, width)
    x = torch.linspace(0, 255, width).view(1, 1, -1).expand(1, height, width)
    coordinates = torch.cat([y, x, x]).to(torch.uint8)
    shares = []
    for seed in range(200):
        values = augment(min_scale=0.4)(coordinates, seeded(seed))
        tall, wide = ((it.max() - it.min()) / 255 for it in values[:2])
        # The outermost pixels of the result are half a pixel inside the crop.
        shares.append(float(tall * wide) * (SIDE / (SIDE - 1)) ** 2)
    assert min(shares) > 0.37  # a crop wider than the image is cut off, which loses a little
    assert max(shares) > 0.9
    assert 0.6 < sum(shares) / 200 < 0.78


def test_padding_is_kept_around_a_crop() -> None:
    black = torch.zeros(3, 20, 80, dtype=torch.uint8)
    values = Augment(AugmentConfig(min_scale=0.5), image_config(resize="pad"))(black, seeded(2))
    assert (values[:, 0] == 255).all()
    assert (values[:, SIDE // 2] == 0).all()


def test_a_sure_flip_mirrors(pixels: Tensor) -> None:
    plain = augment()(pixels, seeded(0))
    assert torch.equal(augment(flip=1.0)(pixels, seeded(0)), plain.flip(2))


def test_a_flip_comes_as_often_as_asked(pixels: Tensor) -> None:
    plain = augment()(pixels, seeded(0))
    change = augment(flip=0.25)
    flips = sum(not torch.equal(change(pixels, seeded(s)), plain) for s in range(1000))
    assert 200 < flips < 300  # four standard deviations are 55


# Warps


def test_a_quarter_turn_equals_rot90() -> None:
    values = torch.rand(3, SIDE, SIDE, generator=seeded(0)) * 255
    turned = warp(values, ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0)))
    assert torch.allclose(turned, values.rot90(1, (1, 2)), atol=1e-2)


def test_a_shift_by_whole_pixels_brings_white() -> None:
    values = torch.rand(3, SIDE, SIDE, generator=seeded(0)) * 255
    shifted = warp(values, ((1.0, 0.0, -2 * 5 / SIDE), (0.0, 1.0, 0.0)))
    assert torch.allclose(shifted[:, :, 5:], values[:, :, :-5], atol=1e-2)
    assert shifted[:, :, :5].min() > 254.99


def test_turning_shrinking_and_shifting_stay_within_their_limits() -> None:
    disc = torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8)
    disc[:, 10:14, 10:14] = 0
    for seed in range(50):
        values = augment(rotate_deg=180.0, zoom=0.5, translate=0.25)(disc, seeded(seed))
        black = 1 - values[0] / 255
        y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
        total = black.sum()
        assert 16 * 0.5**2 * 0.9 < total < 16 * 1.5**2 * 1.1
        assert abs((black * y).sum() / total - SIDE / 2) < 0.25 * SIDE + 0.1
        assert abs((black * x).sum() / total - SIDE / 2) < 0.25 * SIDE + 0.1


# Colour


def test_recolouring_equals_its_three_steps_one_by_one() -> None:
    values = torch.rand(3, SIDE, SIDE, generator=seeded(3)) * 120 + 40  # no step clips
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    expected = values * 1.1
    mean = (expected * luma).sum(0).mean()
    expected = mean + (expected - mean) * 0.8
    gray = (expected * luma).sum(0)
    expected = gray + (expected - gray) * 1.2
    assert torch.allclose(
        recolor(values, brightness=1.1, contrast=0.8, saturation=1.2), expected, atol=1e-2
    )


def test_recolouring_by_one_changes_nothing_and_never_leaves_the_range() -> None:
    values = torch.rand(3, SIDE, SIDE, generator=seeded(3)) * 255
    same = recolor(values, brightness=1.0, contrast=1.0, saturation=1.0)
    assert torch.allclose(same, values, atol=1e-3)
    wild = recolor(values, brightness=2.0, contrast=2.0, saturation=2.0)
    assert wild.min() >= 0
    assert wild.max() <= 255


def test_a_sure_grayscale_leaves_no_colour(pixels: Tensor) -> None:
    values = augment(grayscale=1.0)(pixels, seeded(0))
    assert torch.equal(values[0], values[2])
    expected = TF.rgb_to_grayscale(ImageTransform(image_config()).resize(pixels))[0]
    assert torch.allclose(values[0].float(), expected.float(), atol=1.01)


# Outlines


def test_inked_edges_are_dark_and_flat_areas_keep_their_colour() -> None:
    values = torch.full((3, 12, 12), 250.0)
    values[:, :, 6:] = 100.0
    drawn = inked(values)
    assert (drawn[:, :, 5:7] < 60).all()
    assert torch.equal(drawn[:, :, :5], values[:, :, :5])
    assert torch.equal(drawn[:, :, 7:], values[:, :, 7:])


def test_a_sure_outline_inks_the_image(pixels: Tensor) -> None:
    plain, drawn = augment()(pixels, seeded(0)), augment(outline=1.0)(pixels, seeded(0))
    assert torch.equal(drawn, inked(plain.float()).round().byte())
    assert drawn.float().mean() < plain.float().mean()


# Erasing


def test_an_erased_box_is_the_mean_colour_and_of_the_promised_size(pixels: Tensor) -> None:
    bright = pixels.clamp(min=200)
    for seed in range(50):
        values = augment(erase=1.0)(bright, seeded(seed))
        erased = values == MEAN
        rows, columns = erased[0].nonzero(as_tuple=True)
        assert erased[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert 0.01 < erased.float().mean() < 0.36


def test_what_is_erased_is_nearly_0_to_the_model(pixels: Tensor) -> None:
    config = image_config(mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    change = Augment(AugmentConfig(erase=1.0), config)
    values = change.transform.normalize(change(pixels.clamp(min=200), seeded(0)))
    assert values.abs().min(dim=1).values.min(dim=1).values.max() <= 0.5 / 255 / 0.26


# RandAugment


@pytest.mark.parametrize("name", RAND_OPERATIONS)
@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.0, 0.4, 1.0])
def test_every_operation_keeps_the_kind_of_image(
    pixels: Tensor, name: str, strength: float
) -> None:
    square = pixels[:, :SIDE, :SIDE].clamp(40, 210)
    changed = RAND_OPERATIONS[name](square, strength)
    assert changed.shape == square.shape
    assert changed.dtype == torch.uint8
    if strength == 0 and name not in {"autocontrast", "equalize"}:
        assert torch.equal(changed, square)
    if strength == 1 and name != "identity":
        assert not torch.equal(changed, square)


def test_every_operation_is_drawn(pixels: Tensor) -> None:
    square = pixels[:, :SIDE, :SIDE].clamp(40, 210)
    seen = {rand_augment(square, 1, 20, seeded(s)).numpy().tobytes() for s in range(300)}
    one_sided = {"identity", "autocontrast", "equalize", "posterize", "solarize"}
    assert len(seen) == 2 * len(RAND_OPERATIONS) - len(one_sided)


# Settings


@pytest.mark.parametrize(
    "fields",
    [
        {"min_scale": 0.0},
        {"min_scale": 1.1},
        {"ratio": 0.9},
        {"ratio": math.inf},
        {"flip": 1.5},
        {"flip": math.nan},
        {"rotate_deg": -1.0},
        {"zoom": 1.0},
        {"translate": 2.0},
        {"color": -0.1},
        {"grayscale": 2.0},
        {"erase": 2.0},
        {"rand_augment": (0, 5)},
        {"rand_augment": (2, 31)},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        AugmentConfig(**fields)
