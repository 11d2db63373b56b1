"""Attribution to image patches: cross-attention maps of tokens, contributions to embeddings.

Maps show where the decoder attends; contributions to an embedding are exact.

Dimensions: B images, T tokens, P patches, Q image tokens that the decoder reads, S tokens of the
image encoder (the patches, in OpenCLIP's architecture after a class token), E shared embedding.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.captioner import Captioner
from coca.model.layers.transformer import CrossAttention
from coca.model.pooling import Pooling


@torch.no_grad()
def cross_attention_maps(
    model: Captioner,
    images: Float[Tensor, "B C height width"],
    tokens: Int[Tensor, "B T"],
) -> Float[Tensor, "B T P"]:
    """Compute a cross-attention map over patches for each token: attention rollout.

    The decoder's attention to the image tokens, averaged over layers and heads, times the
    attention of the captioning pooler to the patches. The map of a token is that of the prediction
    of the next token.

    Returns:
        Fractions of the patches in row-major order; they sum to 1.
    """
    encoded = model.encode(images).tokens
    image_tokens, rollout = _attention_rollout(model.poolings.captioning, encoded)
    maps: list[Tensor] = []

    def record(attention: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(attention, CrossAttention)
        states, context = inputs
        maps.append(attention.weights(states, context).mean(dim=1))

    decoder = cast(nn.Module, model.multimodal_decoder)
    layers = [part for part in decoder.modules() if isinstance(part, CrossAttention)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        image = model.multimodal_decoder.read_image(image_tokens)
        model.multimodal_decoder(model.unimodal_decoder(tokens), image)
    finally:
        for hook in hooks:
            hook.remove()
    return _patch_fractions(
        torch.stack(maps).mean(dim=0) @ rollout, model.image_encoder.extra_tokens
    )


@torch.no_grad()
def patch_attributions(
    model: Captioner,
    images: Float[Tensor, "B C height width"],
    directions: Float[Tensor, "B E"],
) -> tuple[Float[Tensor, "B P"], Float[Tensor, " B"]]:
    """Decompose the dot product of image embedding and direction into contributions of patches.

    With fixed attention weights and norm scales, the embedding is a sum over patches and a
    constant. For a text embedding as direction, positive patches raise the similarity of image and
    text, and negative patches lower it.

    Returns:
        The contribution of each patch in row-major order, and the remainder: biases, the class
        branch and, in OpenCLIP's architecture, the class token. Together they sum to the dot
        product.
    """
    poolings = model.poolings
    encoded = model.encode(images)
    read = [encoded.tokens]
    for step in poolings.contrastive:
        read.append(step.pool(read[-1]))
    projected = poolings.projection(read.pop())[:, 0]
    embedding = F.normalize(projected, dim=1)
    if model.class_branch is not None and encoded.probabilities is not None:
        embedding = embedding + model.class_branch(encoded.probabilities)
    length = embedding.norm(dim=1)
    gradient = (directions / (projected.norm(dim=1) * length)[:, None])[:, None]
    if isinstance(poolings.projection, nn.Linear):
        gradient = gradient @ poolings.projection.weight
    for step in reversed(poolings.contrastive):
        gradient = step.vjp(read[-1], gradient)
        inputs = step.normalized(read.pop())
    each = (gradient * inputs).sum(dim=2)[:, model.image_encoder.extra_tokens :]
    whole = (embedding * directions).sum(dim=1) / length
    return each, whole - each.sum(dim=1)


def _attention_rollout(
    steps: Sequence[Pooling], encoded: Float[Tensor, "B S C"]
) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q S"]]:
    """Apply pooling steps; return pooled tokens and their total attention to encoder tokens."""
    count = encoded.shape[1]
    rollout = torch.eye(count, dtype=encoded.dtype, device=encoded.device)
    rollout = rollout.expand(len(encoded), -1, -1)
    for step in steps:
        rollout = step.weights(encoded).mean(dim=1) @ rollout
        encoded = step.pool(encoded)
    return encoded, rollout


def _patch_fractions(rollout: Float[Tensor, "B T S"], extra: int) -> Float[Tensor, "B T P"]:
    """Drop extra tokens and normalize the attention to patches to a sum of 1."""
    patches = rollout[..., extra:].float()
    return patches / patches.sum(dim=2, keepdim=True)
