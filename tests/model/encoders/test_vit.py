import pytest
import torch
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.model.encoders.vit import VisionTransformer
from tiny import tiny_image

PATCHES = tiny_image().tokens


@pytest.fixture
def encoder() -> VisionTransformer:
    """An encoder without blocks, so that each token depends on its own patch only."""
    torch.manual_seed(0)
    encoder = VisionTransformer(tiny_image())
    nn.init.normal_(encoder.positions)
    encoder.blocks = nn.ModuleList()
    return encoder


def kept_patches(encoder: VisionTransformer, images: Tensor) -> list[list[int]]:
    """Find the kept patches of each image by comparison of tokens."""
    some = encoder.train()(images)
    every = encoder.eval()(images)
    found = (some[:, :, None] - every[:, None]).abs().amax(-1) < 1e-5  # (B, K, P)
    assert bool((found.sum(-1) == 1).all()), "a token belongs to no patch, or to several"
    return found.int().argmax(-1).tolist()


@pytest.mark.parametrize(("share", "count"), [(0.5, 8), (0.75, 4), (0.3, 11), (0.99, 1), (0.0, 16)])
def test_the_kept_patches_are_distinct_with_their_own_positions(
    encoder: VisionTransformer, share: float, count: int
) -> None:
    encoder.patch_dropout = share
    for patches in kept_patches(encoder, torch.randn(5, 3, 16, 16)):
        assert len(set(patches)) == len(patches) == count


def test_each_image_keeps_patches_of_its_own_and_each_patch_is_kept_alike(
    encoder: VisionTransformer,
) -> None:
    encoder.patch_dropout = 0.75
    rows = kept_patches(encoder, torch.randn(2000, 3, 16, 16))
    assert len({tuple(sorted(row)) for row in rows}) > 900  # of 1,820 possible choices
    counts = torch.bincount(torch.tensor(rows).flatten(), minlength=PATCHES)
    # Each is kept in a quarter of 2,000 images, 500, with a standard deviation of 19.
    assert int((counts - 500).abs().max()) < 100


def test_a_model_in_evaluation_mode_sees_every_patch(encoder: VisionTransformer) -> None:
    images = torch.randn(2, 3, 16, 16)
    before = torch.get_rng_state()
    whole = encoder.eval()(images)
    encoder.patch_dropout = 0.5
    assert torch.equal(encoder(images), whole)
    assert torch.equal(torch.get_rng_state(), before)


def test_patches_that_were_left_out_have_no_effect_and_no_gradient() -> None:
    torch.manual_seed(0)
    encoder = VisionTransformer(tiny_image()).train()
    nn.init.normal_(encoder.positions)
    encoder.patch_dropout = 0.75
    images = torch.randn(1, 3, 16, 16, requires_grad=True)
    encoder(images).square().sum().backward()
    assert images.grad is not None
    assert encoder.positions.grad is not None
    touched = encoder.positions.grad.abs().sum(1) > 0
    assert int(touched.sum()) == 4
    by_patch = images.grad.abs().sum(1).unfold(1, 4, 4).unfold(2, 4, 4).sum((-1, -2)).flatten()
    assert torch.equal(by_patch > 0, touched)


def test_the_choice_follows_the_global_generator(encoder: VisionTransformer) -> None:
    encoder.patch_dropout = 0.5
    images = torch.randn(3, 3, 16, 16)
    choices = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        choices.append(kept_patches(encoder, images))
    assert choices[0] == choices[1] != choices[2]


def test_patches_of_another_size_are_left_out_as_well(encoder: VisionTransformer) -> None:
    encoder.patch_dropout = 0.5
    assert [len(row) for row in kept_patches(encoder, torch.randn(2, 3, 24, 32))] == [24, 24]


def test_a_image_that_does_not_fit_into_patches_raises(encoder: VisionTransformer) -> None:
    with pytest.raises(ConfigError, match="18 x 16 pixels is not a multiple of patch_size 4"):
        encoder(torch.randn(1, 3, 18, 16))
