import pytest
import torch
from torch import Tensor

from coca.model.attention_maps import cross_attention_maps
from coca.model.captioner import Captioner
from coca.model.coca import CoCa
from coca.model.encoders.vit import PatchEncoder
from coca.model.layers.transformer import CrossAttention
from tiny import sharpened, tiny_config
from tiny_openclip import ARCHITECTURES, random_images, writer

KINDS = (*ARCHITECTURES, "parallel", "none")


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Captioner:
    if request.param in ARCHITECTURES:
        return writer(request.param)
    config = tiny_config()
    pooler = config.pooler.replace(kind=request.param)
    torch.manual_seed(0)
    return sharpened(CoCa(config.replace(pooler=pooler))).eval()


@pytest.fixture
def tokens(model: Captioner) -> Tensor:
    bos = model.config.text.bos_id
    return torch.tensor([[bos, 5, 6, 7], [bos, 9, 9, 4], [bos, 4, 8, 5]])


def patch_count(model: Captioner) -> int:
    return model.config.image.tokens


def test_maps_are_fractions_of_all_patches(model: Captioner, tokens: Tensor) -> None:
    maps = cross_attention_maps(model, random_images(), tokens)
    assert maps.shape == (3, 4, patch_count(model))
    assert (maps >= 0).all()
    assert torch.allclose(maps.sum(dim=-1), torch.ones(maps.shape[:-1]), atol=1e-5)
    assert (maps[:, 1:] - maps[:, :-1]).abs().max() > 1e-3


def test_a_map_depends_on_no_later_token(model: Captioner, tokens: Tensor) -> None:
    other = tokens.clone()
    other[:, 2:] = 11
    maps, others = (cross_attention_maps(model, random_images(), ids) for ids in (tokens, other))
    assert torch.allclose(maps[:, :2], others[:, :2], atol=1e-6)
    assert not torch.allclose(maps[:, 2:], others[:, 2:], atol=1e-3)


class Shuffled(PatchEncoder):
    """An encoder that returns the tokens of the patches in another order."""

    def __init__(self, encoder: PatchEncoder, order: Tensor) -> None:
        super().__init__(encoder.config)
        self.encoder, self.order = encoder, order
        self.extra_tokens = encoder.extra_tokens

    def features(self, images: Tensor) -> Tensor:
        return self.encoder(images)[:, self.order]


def test_shuffling_the_patches_shuffles_the_maps(model: Captioner, tokens: Tensor) -> None:
    order = torch.randperm(patch_count(model), generator=torch.Generator().manual_seed(1))
    before = cross_attention_maps(model, random_images(), tokens)
    extra = model.image_encoder.extra_tokens
    all_tokens = torch.cat([torch.arange(extra), order + extra])
    assert isinstance(model.image_encoder, PatchEncoder)
    model.image_encoder = Shuffled(model.image_encoder, all_tokens)
    after = cross_attention_maps(model, random_images(), tokens)
    assert torch.allclose(before[..., order], after, atol=1e-5)


def test_attention_with_these_weights_is_what_the_layer_computes() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(24, 16, 3)
    words, read = torch.randn(2, 5, 24), torch.randn(2, 7, 16)
    context = layer.project(read)
    mixed = (layer.weights(words, context) @ context[1]).transpose(1, 2).flatten(2)
    assert torch.allclose(layer.out(mixed), layer(words, context), atol=1e-6)
