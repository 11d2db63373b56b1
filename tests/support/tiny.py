"""A CoCa small enough for a test, with each kind of image encoder, and captions as its token ids.

`TINY_SEED` shifts the seed of its random weights. A test that passes with one draw of the weights
and fails with another depends on numbers that it does not state; so does a test that fails on
another processor, whose sums differ in the last bits.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.class_coca import ClassCoCa
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig, PoolerConfig, TextDecoderConfig
from coca.model.encoders.efficientnet import EfficientNetLiteConfig
from coca.model.encoders.encoder import ImageEncoderConfig
from coca.model.encoders.timm import TimmConfig
from coca.model.encoders.vit import VisionTransformer, ViTConfig
from coca.model.pretrained import build
from coca.processing.tokenizer import padded

SHIFT = int(os.environ.get("TINY_SEED", "0"))
"""Added to each seed; 0 by default."""


def seed_weights(seed: int = 0) -> None:
    """Seed torch's global generator, from which modules draw their initial weights."""
    torch.manual_seed(seed + SHIFT)


def weights_generator(seed: int) -> torch.Generator:
    """Return a generator that draws weights."""
    return torch.Generator().manual_seed(seed + SHIFT)


Model = TypeVar("Model", bound=nn.Module)
PAD, BOS, EOS, CLS = 0, 1, 2, 3


def tiny_image() -> ViTConfig:
    return ViTConfig(image_size=16, patch_size=4, width=32, layers=2, heads=2, mlp_width=64)


def transformer(model: CoCa) -> VisionTransformer:
    """The image encoder of a model of kind `vit`."""
    assert isinstance(model.image_encoder, VisionTransformer)
    return model.image_encoder


def tiny_config(**changes: Any) -> CoCaConfig:
    config = CoCaConfig(
        image=tiny_image(),
        text=TextDecoderConfig(
            vocab_size=50,
            context_length=16,
            width=48,
            heads=3,
            mlp_width=64,
            unimodal_layers=2,
            multimodal_layers=2,
        ),
        pooler=PoolerConfig(captioning_queries=5, heads=2),
        embed_dim=24,
    )
    return config.replace(**changes)


def caption(*words: int, length: int) -> list[int]:
    row = [BOS, *words, EOS, CLS]
    return row + [PAD] * (length - len(row))


def sharpened(model: Model) -> Model:
    """Larger weights, so that outputs differ enough for a broken law to show."""
    generator = weights_generator(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "log_scale":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


ENCODERS: dict[str, ImageEncoderConfig] = {
    "vit": tiny_image(),
    "lite": EfficientNetLiteConfig(image_size=32, width=32, classes=7),
    "branch": EfficientNetLiteConfig(
        image_size=32, width=32, classes=7, class_branch=True, class_tokens=3
    ),
    "convnet": TimmConfig(name="test_resnet", image_size=64, width=32, classes=7),
    "efficientnet": TimmConfig(name="test_efficientnet", image_size=64, width=256),
    "hybrid": TimmConfig(name="mobilevitv2_050", image_size=64, width=32),
    "transformer": TimmConfig(name="test_vit", image_size=32, patch_size=16, width=64),
    "channels_last": TimmConfig(name="test_mambaout", image_size=64, width=32, classes=5),
}
"""The kinds `vit` and `efficientnet_lite`, without and with class branch
and class tokens; then of timm: ConvNets
with and without projection, a hybrid of convolution and attention, a transformer with a class
token, and a model whose map has its channels last."""


def captioner(name: str) -> CoCa:
    """A model with this encoder and random weights, in evaluation mode."""
    seed_weights()
    config = tiny_config().replace(image=ENCODERS[name])
    model = build(config)
    assert isinstance(model, CoCa)
    if name == "vit":
        sharpened(model)
    if isinstance(model, ClassCoCa):
        assert model.class_tokens is not None
        model.class_tokens.names[:, :2] = torch.arange(4, 18).view(7, 2)
        model.class_tokens.names[::2, 1] = -1
    return model.eval()


def images(name: str, count: int = 2) -> Tensor:
    side = ENCODERS[name].image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def caption_logits(model: CoCa, images: Tensor, tokens: Tensor) -> Tensor:
    """Next-token logits at every position, without packing."""
    image = model.multimodal_decoder.read_image(model.image_tokens(images))
    states = model.multimodal_decoder(model.unimodal_decoder(tokens), image)
    return F.linear(states, model.vocabulary_weight)


LETTERS = " abcdefghijklmnopqrstuvwxyz"


def encode_letters(texts: Sequence[str]) -> Tensor:
    """Captions of one token a letter, ids 4 and above."""
    rows = [[4 + LETTERS.index(letter) for letter in text[:13]] for text in texts]
    return padded([[1, *row, 2, 3] for row in rows], 16)
