import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coca.processing.augment import Augment, AugmentConfig
from coca.processing.image import ImageConfig, ImageTransform, trimmed
from coca.processing.image_file import square_around


def icon(*, border: int, height: int = 10, width: int = 6, paper: int = 255) -> Tensor:
    pixels = torch.full((3, height + 2 * border, width + 2 * border), paper, dtype=torch.uint8)
    drawing = torch.arange(height * width, dtype=torch.uint8).view(height, width)
    pixels[:, border : border + height, border : border + width] = drawing
    return pixels


@given(
    one=st.integers(1, 9),
    two=st.integers(1, 9),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
)
def test_the_width_of_a_border_changes_nothing(one: int, two: int, height: int, width: int) -> None:
    first, second = (trimmed(icon(border=b, height=height, width=width)) for b in (one, two))
    assert torch.equal(first, second)
    assert first.shape == (3, max(height, width), max(height, width))


def test_what_is_tall_stays_tall_in_the_colour_of_its_border() -> None:
    square = trimmed(icon(border=3, paper=200))
    assert torch.equal(square[0, :, 2:8], icon(border=0)[0])
    assert (square[:, :, :2] == 200).all()


def test_trimming_twice_is_trimming_once() -> None:
    once = trimmed(icon(border=4))
    assert torch.equal(trimmed(once), once)


@pytest.mark.parametrize("paper", [0, 128, 255])
def test_an_empty_image_stays_as_it_is(paper: int) -> None:
    empty = torch.full((3, 7, 9), paper, dtype=torch.uint8)
    assert torch.equal(trimmed(empty), empty)


@pytest.mark.parametrize(("corner", "side"), [(250, 10), (243, 10), (242, 18)])
def test_a_border_within_12_grey_levels_of_its_corner_is_cut(corner: int, side: int) -> None:
    noisy = icon(border=4)
    noisy[:, 0, 0] = corner
    assert trimmed(noisy).shape == (3, side, side)


def test_only_a_configuration_that_asks_for_it_trims() -> None:
    pixels = icon(border=5)
    plain, trims = (ImageTransform(ImageConfig(image_size=10, trim=trim)) for trim in (False, True))
    assert torch.equal(trims(pixels), plain(trimmed(pixels)))
    assert not torch.equal(plain(pixels), trims(pixels))


@pytest.mark.parametrize("min_scale", [1.0, 0.5])
def test_augmentation_begins_with_what_the_model_will_see(min_scale: float) -> None:
    augment = Augment(AugmentConfig(min_scale=min_scale), ImageConfig(image_size=10, trim=True))
    seen = [augment(icon(border=b), torch.Generator().manual_seed(0)) for b in (2, 8)]
    assert torch.equal(seen[0], seen[1])


def test_a_box_grows_to_a_square_of_the_same_centre() -> None:
    assert square_around((2, 4, 8, 14)) == (0, 4, 10, 14)
    assert square_around((1, 5, 12, 7)) == (1, 1, 12, 12)
