import pytest
import torch

from coca.core.errors import ConfigError
from coca.model.detection.feature_pyramid import SCALES, FeaturePyramid


def test_maps_have_the_sides_of_their_scales() -> None:
    pyramid = FeaturePyramid(width=16, channels=8)
    maps = pyramid(torch.randn(2, 24, 16), (4, 6))
    assert [tuple(one.shape) for one in maps] == [
        (2, 8, round(4 * scale), round(6 * scale)) for scale in SCALES
    ]


def test_a_location_of_a_map_sees_the_patches_around_it_and_no_others() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid(width=16, channels=8, scales=(2.0, 1.0))
    tokens = torch.randn(1, 64, 16)
    changed = tokens.clone()
    changed[0, 0] += 1.0
    for scale, before, after in zip(
        (2, 1), pyramid(tokens, (8, 8)), pyramid(changed, (8, 8)), strict=True
    ):
        moved = (before - after).abs().amax(1)[0] > 1e-6
        # One patch and its neighbours within the 3 x 3 convolution.
        reach = scale + 1
        assert moved[:reach, :reach].all()
        assert not moved[reach:].any()
        assert not moved[:, reach:].any()


def test_every_level_learns() -> None:
    pyramid = FeaturePyramid(width=16, channels=8)
    sum(one.square().sum() for one in pyramid(torch.randn(2, 16, 16), (4, 4))).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got \[3.0\]"):
        FeaturePyramid(width=16, channels=8, scales=(3.0,))
