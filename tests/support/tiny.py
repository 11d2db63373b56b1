"""A CoCa small enough for a test, and captions as its token ids."""

import dataclasses
from typing import Any, TypeVar

import torch
from torch import nn

from coca.model.captioner import Captioner
from coca.model.coca_config import CoCaConfig, PoolerConfig, TextDecoderConfig
from coca.model.encoders.vit import VisionTransformer, ViTConfig
from tiny_seed import weights_generator

Model = TypeVar("Model", bound=nn.Module)
PAD, BOS, EOS, CLS = 0, 1, 2, 3


def tiny_image() -> ViTConfig:
    return ViTConfig(image_size=16, patch_size=4, width=32, layers=2, heads=2, mlp_width=64)


def transformer(model: Captioner) -> VisionTransformer:
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
    return dataclasses.replace(config, **changes)


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
