"""A CoCa with each kind of image encoder, small enough for a test."""

import dataclasses

import torch
from torch import Tensor

from coca.model.coca import CoCa
from coca.model.encoders.efficientnet import EfficientNetLiteConfig
from coca.model.encoders.encoder import ImageEncoderConfig
from coca.model.encoders.timm import TimmConfig
from tiny import sharpened, tiny_config, tiny_image
from tiny_seed import seed_weights

ENCODERS: dict[str, ImageEncoderConfig] = {
    "vit": tiny_image(),
    "lite": EfficientNetLiteConfig(image_size=32, width=32, classes=7),
    "convnet": TimmConfig(name="test_resnet", image_size=64, width=32, classes=7),
    "efficientnet": TimmConfig(name="test_efficientnet", image_size=64, width=256),
    "hybrid": TimmConfig(name="mobilevitv2_050", image_size=64, width=32),
    "transformer": TimmConfig(name="test_vit", image_size=32, patch_size=16, width=64),
    "channels_last": TimmConfig(name="test_mambaout", image_size=64, width=32, classes=5),
}
"""The kinds `vit` and `efficientnet_lite`; then of timm: ConvNets with and without projection, a
hybrid of convolution and attention, a transformer with a class token, and a model whose map has its
channels last."""


def captioner(name: str) -> CoCa:
    """A model with this encoder and random weights, in evaluation mode."""
    seed_weights()
    config = dataclasses.replace(tiny_config(), image=ENCODERS[name])
    model = CoCa(config)
    if name == "vit":
        sharpened(model)
    return model.eval()


def images(name: str, count: int = 2) -> Tensor:
    side = ENCODERS[name].image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))
