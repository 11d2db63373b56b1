"""Weight initialization of all captioners, as in CLIP; the paper does not state any."""

import math

import torch
from torch import nn

from coca.model.layers.prepacked_linear import Linear
from coca.model.layers.transformer import MLP, CrossAttention, SelfAttention


@torch.no_grad()
def init_linears_(model: nn.Module) -> None:
    """Initialize each linear layer: normal with variance 1 / inputs, and zero biases.

    So a narrow model learns as fast as a wide model. With a fixed 0.02, as in GPT-2, a width of 192
    learned far more slowly. Layers of other libraries keep their own initialization.
    """
    for module in model.modules():
        if isinstance(module, Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def scale_residuals_(tower: nn.Module, depth: int) -> None:
    """Divide the output weights of residual branches by the square root of twice the depth.

    So the residual stream does not grow with depth.
    """
    for module in tower.modules():
        if isinstance(module, SelfAttention | CrossAttention):
            module.out.weight.div_(math.sqrt(2 * depth))
        elif isinstance(module, MLP):
            module.down.weight.div_(math.sqrt(2 * depth))
