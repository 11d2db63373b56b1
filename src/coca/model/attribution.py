"""What a model looked at: which patches a word of a caption, or an embedding, was made from.

Attention tells where the decoder read; what each patch contributed to an embedding is exact.

Dimensions: B images, T tokens, P patches, Q image tokens that the decoder reads, S tokens of the
image encoder (the patches, in OpenCLIP's architecture behind a class token), E shared embedding.
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
    """Gives where in the image the decoder looked when it predicted the word behind each token.

    The attention of its layers and heads to the image tokens, on average, times the attention by
    which the captioning pooler read those from the patches.

    Args:
        model: In evaluation mode.
        images: Normalised images.
        tokens: A caption each; a map depends on nothing behind its token.

    Returns:
        Shares of the patches, row by row of the image; they sum to 1.
    """
    encoded = model.image_encoder(images)
    image_tokens, shares = _traced(model.poolings.captioning, encoded)
    read: list[Tensor] = []

    def record(attention: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(attention, CrossAttention)
        words, context = inputs
        read.append(attention.weights(words, context).mean(dim=1))

    decoder = cast(nn.Module, model.multimodal_decoder)
    layers = [part for part in decoder.modules() if isinstance(part, CrossAttention)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        image = model.multimodal_decoder.read_image(image_tokens)
        model.multimodal_decoder(model.unimodal_decoder(tokens), image)
    finally:
        for hook in hooks:
            hook.remove()
    return _of_patches(torch.stack(read).mean(dim=0) @ shares, model.image_encoder.extra_tokens)


@torch.no_grad()
def embedding_map(
    model: Captioner, images: Float[Tensor, "B C height width"]
) -> Float[Tensor, "B P"]:
    """Gives where the query of the embedding looked, through the captioning queries in a cascade.

    Returns:
        Shares of the patches, row by row of the image; they sum to 1.
    """
    poolings = model.poolings
    _, shares = _traced(poolings.contrastive, model.image_encoder(images))
    return _of_patches(shares, model.image_encoder.extra_tokens)[:, 0]


@torch.no_grad()
def patch_attributions(
    model: Captioner,
    images: Float[Tensor, "B C height width"],
    directions: Float[Tensor, "B E"],
) -> tuple[Float[Tensor, "B P"], Float[Tensor, " B"]]:
    """Splits the dot product of image and direction into what each patch adds to it.

    With attention weights and scales held at what they are, the embedding is a sum over patches
    and a constant. So against a text's embedding this tells which patches make the image
    similar to the text, and which make it less so.

    Args:
        model: In evaluation mode.
        images: Normalised images.
        directions: One each, such as the embedding of a text.

    Returns:
        What each patch adds, row by row of the image; and the rest, which biases add and, in
        OpenCLIP's architecture, the class token. Together they sum to the dot product.
    """
    poolings = model.poolings
    read = [model.image_encoder(images)]
    for step in poolings.contrastive:
        read.append(step.pool(read[-1]))
    projected = poolings.projection(read.pop())[:, 0]
    length = projected.norm(dim=1, keepdim=True)
    pulled = (directions / length)[:, None]
    if isinstance(poolings.projection, nn.Linear):
        pulled = pulled @ poolings.projection.weight
    for step in reversed(poolings.contrastive):
        pulled = step.vjp(read[-1], pulled)
        seen = step.seen(read.pop())
    each = (pulled * seen).sum(dim=2)[:, model.image_encoder.extra_tokens :]
    whole = (F.normalize(projected, dim=1) * directions).sum(dim=1)
    return each, whole - each.sum(dim=1)


def _traced(
    steps: Sequence[Pooling], encoded: Float[Tensor, "B S C"]
) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q S"]]:
    """Pools, and gives how much of each token of the encoder went into each one that comes out."""
    count = encoded.shape[1]
    shares = torch.eye(count, dtype=encoded.dtype, device=encoded.device)
    shares = shares.expand(len(encoded), -1, -1)
    for step in steps:
        shares = step.weights(encoded).mean(dim=1) @ shares
        encoded = step.pool(encoded)
    return encoded, shares


def _of_patches(shares: Float[Tensor, "B T S"], extra: int) -> Float[Tensor, "B T P"]:
    """Leaves out what is no patch."""
    patches = shares[..., extra:].float()
    return patches / patches.sum(dim=2, keepdim=True)
