"""Starting values that all captioners share. The paper states none, so they follow CLIP."""

import math

import torch
from torch import nn

from coca.model.layers.transformer import MLP, CrossAttention, SelfAttention


@torch.no_grad()
def draw_linears_(model: nn.Module) -> None:
    """Draws each linear layer normal with variance one over its inputs, with biases of zero.

    So a narrow model learns as fast as a wide one; a fixed 0.02, as in GPT-2, left a width of 192
    far behind.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def shrink_residuals_(tower: nn.Module, depth: int) -> None:
    """Scales output layers of residual branches down by the square root of twice the depth.

    So the residual stream does not grow with it.
    """
    for module in tower.modules():
        if isinstance(module, SelfAttention | CrossAttention):
            module.out.weight.div_(math.sqrt(2 * depth))
        elif isinstance(module, MLP):
            module.down.weight.div_(math.sqrt(2 * depth))
