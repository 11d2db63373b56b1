"""Cross-attention maps: where the decoder attends in the image, for each token of a caption.

Dimensions: B images, T tokens, P patches, Q image tokens that the decoder reads, S tokens of the
image encoder (the patches, in OpenCLIP's architecture after a class token).
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

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
    rollout = _attention_rollout(model.poolings.captioning, model.encode(images).tokens)
    maps: list[Tensor] = []

    def record(attention: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(attention, CrossAttention)
        states, context = inputs
        # Class tokens, which come last, belong to no patch.
        maps.append(attention.weights(states, context).mean(dim=1)[..., : rollout.shape[1]])

    decoder = cast(nn.Module, model.multimodal_decoder)
    layers = [part for part in decoder.modules() if isinstance(part, CrossAttention)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        image = model.multimodal_decoder.read_image(model.image_tokens(images))
        model.multimodal_decoder(model.unimodal_decoder(tokens), image)
    finally:
        for hook in hooks:
            hook.remove()
    return _patch_fractions(
        torch.stack(maps).mean(dim=0) @ rollout, model.image_encoder.extra_tokens
    )


def _attention_rollout(
    steps: Sequence[Pooling], encoded: Float[Tensor, "B S C"]
) -> Float[Tensor, "B Q S"]:
    """Compute the total attention of pooled tokens to encoder tokens over all pooling steps."""
    count = encoded.shape[1]
    rollout = torch.eye(count, dtype=encoded.dtype, device=encoded.device)
    rollout = rollout.expand(len(encoded), -1, -1)
    for step in steps:
        rollout = step.weights(encoded).mean(dim=1) @ rollout
        encoded = step.pool(encoded)
    return rollout


def _patch_fractions(rollout: Float[Tensor, "B T S"], extra: int) -> Float[Tensor, "B T P"]:
    """Drop extra tokens and normalize the attention to patches to a sum of 1."""
    patches = rollout[..., extra:].float()
    return patches / patches.sum(dim=2, keepdim=True)
