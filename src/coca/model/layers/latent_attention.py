"""Reading images with few words each: attention that never projects what it reads.

Usually the tokens of an image are multiplied by two large matrices, into keys and values. A caption
of a dozen words is cheaper to bring to the image than the image to the caption: the score q . (K x)
equals (K' q) . x, and the sum of w (V x) equals V times the sum of w x. So each head's query is
taken through its part of K, reads the raw tokens, and what it has read is taken through V. It is
exact, cheaper while a caption has fewer words than a head has features, and all layers read one and
the same tensor: no keys and values are kept for the backward pass.

At batch 32 of OpenCLIP's B/32 on two cores a layer, forward and backward, costs 31 ms this way and
102 ms the other in fp32, 13 and 33 ms in bf16.

Dimensions: B images, S their tokens, C their width, M rows of packed captions, D width, H heads,
d features of a head.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from coca.model.layers.packing import Packing


def read(
    queries: Float[Tensor, "M D"],
    context: Float[Tensor, "B S C"],
    keys: Float[Tensor, "D C"],
    values: Float[Tensor, "D C"],
    *,
    heads: int,
    packing: Packing,
) -> Float[Tensor, "M D"]:
    """Gives what `F.scaled_dot_product_attention` gives on projected tokens, without a bias.

    Args:
        queries: Of all heads beside each other.
        context: What each caption reads, in the packing's order.
        keys: The matrix that would make keys of `context`.
        values: The one that would make values.
        heads: How many heads.
        packing: How the rows make up captions.
    """
    scale = (queries.shape[1] // heads) ** -0.5
    per_head = rearrange(queries * scale, "M (H d) -> H M d", H=heads)
    sought = torch.bmm(per_head, rearrange(keys, "(H d) C -> H d C", H=heads))
    sought = rearrange(sought, "H M C -> M H C").contiguous()
    found = _Read.apply(sought, context.to(sought.dtype), packing)  # type: ignore[no-untyped-call]
    mixed = torch.bmm(
        rearrange(found, "M H C -> H M C"), rearrange(values, "(H d) C -> H C d", H=heads)
    )
    return rearrange(mixed, "H M d -> M (H d)")


def to_autocast_dtype(context: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
    """Gives it in the type that products have under autocast: once, and not in each layer."""
    device = context.device.type
    return (
        context.to(torch.get_autocast_dtype(device))
        if torch.is_autocast_enabled(device)
        else context
    )


class _Read(torch.autograd.Function):
    """Softmax attention of each row's heads to the tokens of its image, which are keys and values.

    By hand, since autograd would make and add up a gradient of all tokens for each rectangle and
    each of the two products.
    """

    @staticmethod
    def forward(
        ctx: Any, sought: Float[Tensor, "M H C"], context: Float[Tensor, "B S C"], packing: Packing
    ) -> Float[Tensor, "M H C"]:
        found = torch.empty_like(sought)
        weights = []
        # Autocast has had its say, and would hand the softmax a type that its reader has not.
        with torch.autocast(sought.device.type, enabled=False):
            for rows, result, (image,) in zip(
                packing.split(sought),
                packing.split(found),
                packing.share_out([context]),
                strict=True,
            ):
                scores = torch.bmm(rows.flatten(1, 2), image.transpose(1, 2))
                weights.append(scores.softmax(dim=2))
                torch.bmm(weights[-1], image, out=result.flatten(1, 2))
        ctx.packing = packing
        ctx.save_for_backward(sought, context, *weights)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "M H C"]) -> tuple[Tensor, Tensor, None]:
        sought, context, *weights = ctx.saved_tensors
        packing: Packing = ctx.packing
        grad_sought, grad_context = torch.empty_like(sought), torch.empty_like(context)
        for rows, upstream, to_rows, (image, to_image), shares in zip(
            packing.split(sought),
            packing.split(grad.contiguous()),
            packing.split(grad_sought),
            packing.share_out([context, grad_context]),
            weights,
            strict=True,
        ):
            upstream = upstream.flatten(1, 2)
            to_shares = torch.bmm(upstream, image.transpose(1, 2))
            to_scores = torch._softmax_backward_data(to_shares, shares, 2, shares.dtype)
            torch.bmm(to_scores, image, out=to_rows.flatten(1, 2))
            torch.bmm(shares.transpose(1, 2), upstream, out=to_image)
            to_image.baddbmm_(to_scores.transpose(1, 2), rows.flatten(1, 2))
        return grad_sought, grad_context, None
