"""Latent cross-attention: multi-head attention without projected keys and values.

Standard cross-attention projects all image tokens to keys and values. For short captions it is
cheaper to project the queries. The score q . (K x) equals (K' q) . x, and the sum of w (V x) equals
V times the sum of w x. So each head's query is multiplied by its part of K and attends to the raw
tokens; the result is multiplied by V. `CrossAttention` of `examples/minimal_coca.py` has the same
output. Buckets of captions so long that this is more expensive are projected (`longest_latent`).
All layers attend to the same tensor, so no keys and values of other captions are kept for the
backward pass.

Time of one layer, forward and backward, at batch 32 of OpenCLIP's B/32 on two CPU cores:

            latent    projected
    fp32     31 ms       102 ms
    bf16     13 ms        33 ms

Processor time of one layer, forward and backward, by the length of captions: 4 images of 256
tokens, width 512, 8 heads, one thread of an AMD EPYC in fp32, median of 5, 2026-12-02:

    tokens            32      64     128     256
    latent         46 ms   92 ms  164 ms  325 ms
    the cheaper    45 ms   64 ms   81 ms   95 ms

Dimensions: B images, S their tokens, C their width, M rows of packed captions, D width, H heads,
d features of a head.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from coca.model.layers.packing import Packing


def latent_attention(
    queries: Float[Tensor, "M D"],
    context: Float[Tensor, "B S C"],
    keys: Float[Tensor, "D C"],
    values: Float[Tensor, "D C"],
    *,
    heads: int,
    packing: Packing,
) -> Float[Tensor, "M D"]:
    """Compute multi-head cross-attention on unprojected tokens, without bias.

    Equal to `F.scaled_dot_product_attention` on projected tokens, which is used for buckets above
    `longest_latent`.
    """
    tokens, width = context.shape[1], context.shape[2]
    limit = longest_latent(tokens, width, queries.shape[1], heads)
    # A symbolic length, of an export, is not compared. Buckets are sorted by length.
    short = sum(not isinstance(it.length, int) or it.length <= limit for it in packing.buckets)
    if short == len(packing.buckets):
        return _latent(queries, context, keys, values, heads, packing)
    rows, images = sum(packing.sizes[:short]), packing.buckets[short].first
    parts = []
    if short:
        below = replace(packing, buckets=packing.buckets[:short])
        parts = [_latent(queries[:rows], context[:images], keys, values, heads, below)]
    for bucket in packing.buckets[short:]:
        end = rows + bucket.captions * bucket.length
        mine = queries[rows:end].unflatten(0, (bucket.captions, bucket.length))
        seen = context[bucket.first : bucket.first + bucket.captions]
        parts.append(_projected(mine, seen, keys, values, heads).flatten(0, 1))
        rows = end
    return torch.cat(parts)


def longest_latent(tokens: int, context_width: int, width: int, heads: int) -> float:
    """Return the caption length up to which latent attention has fewer products.

    A caption of T tokens takes 2 T D C + 2 T H S C products with latent queries, and
    2 S C D + 2 T S D with projected keys and values.
    """
    saved = width * context_width + heads * tokens * context_width - tokens * width
    return tokens * context_width * width / saved if saved > 0 else math.inf


def _projected(
    queries: Float[Tensor, "b t D"],
    context: Float[Tensor, "b S C"],
    keys: Float[Tensor, "D C"],
    values: Float[Tensor, "D C"],
    heads: int,
) -> Float[Tensor, "b t D"]:
    key, value = (F.linear(context, weight) for weight in (keys, values))
    query, key, value = (
        rearrange(it, "b L (H d) -> b H L d", H=heads) for it in (queries.to(key.dtype), key, value)
    )
    mixed = F.scaled_dot_product_attention(query, key, value)
    return rearrange(mixed, "b H L d -> b L (H d)")


def _latent(
    queries: Float[Tensor, "M D"],
    context: Float[Tensor, "B S C"],
    keys: Float[Tensor, "D C"],
    values: Float[Tensor, "D C"],
    heads: int,
    packing: Packing,
) -> Float[Tensor, "M D"]:
    scale = (queries.shape[1] // heads) ** -0.5
    per_head = rearrange(queries * scale, "M (H d) -> H M d", H=heads)
    latent_queries = torch.bmm(per_head, rearrange(keys, "(H d) C -> H d C", H=heads))
    latent_queries = rearrange(latent_queries, "H M C -> M H C").contiguous()
    attended = _LatentAttention.apply(latent_queries, context.to(latent_queries.dtype), packing)  # type: ignore[no-untyped-call]
    mixed = torch.bmm(
        rearrange(attended, "M H C -> H M C"), rearrange(values, "(H d) C -> H C d", H=heads)
    )
    return rearrange(mixed, "H M d -> M (H d)")


def to_autocast_dtype(context: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
    """Cast to the autocast dtype, if autocast is enabled: once, and not in each layer."""
    device = context.device.type
    return (
        context.to(torch.get_autocast_dtype(device))
        if torch.is_autocast_enabled(device)
        else context
    )


class _LatentAttention(torch.autograd.Function):
    """Softmax attention of each row's heads to the raw image tokens, as both keys and values.

    The backward pass is written by hand: autograd would allocate and add a gradient of all tokens
    for each bucket and each of the two products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        latent_queries: Float[Tensor, "M H C"],
        context: Float[Tensor, "B S C"],
        packing: Packing,
    ) -> Float[Tensor, "M H C"]:
        attended = torch.empty_like(latent_queries)
        weights = []
        # The inputs have the autocast dtype already; autocast would run the softmax in fp32.
        with torch.autocast(latent_queries.device.type, enabled=False):
            for rows, result, (image,) in zip(
                packing.split(latent_queries),
                packing.split(attended),
                packing.split_by_bucket([context]),
                strict=True,
            ):
                scores = torch.bmm(rows.flatten(1, 2), image.transpose(1, 2))
                weights.append(scores.softmax(dim=2))
                torch.bmm(weights[-1], image, out=result.flatten(1, 2))
        ctx.packing = packing
        ctx.save_for_backward(latent_queries, context, *weights)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "M H C"]) -> tuple[Tensor, Tensor, None]:
        latent_queries, context, *weights = ctx.saved_tensors
        packing: Packing = ctx.packing
        grad_queries, grad_context = torch.empty_like(latent_queries), torch.empty_like(context)
        for rows, upstream, grad_rows, (image, grad_image), weight in zip(
            packing.split(latent_queries),
            packing.split(grad.contiguous()),
            packing.split(grad_queries),
            packing.split_by_bucket([context, grad_context]),
            weights,
            strict=True,
        ):
            upstream = upstream.flatten(1, 2)
            grad_weight = torch.bmm(upstream, image.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weight, weight, 2, weight.dtype)
            torch.bmm(grad_scores, image, out=grad_rows.flatten(1, 2))
            torch.bmm(weight.transpose(1, 2), upstream, out=grad_image)
            grad_image.baddbmm_(grad_scores.transpose(1, 2), rows.flatten(1, 2))
        return grad_queries, grad_context, None
