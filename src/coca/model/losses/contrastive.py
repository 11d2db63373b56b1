"""The losses that tie images to captions: softmax (CoCa, section 3.2) and sigmoid (SigLIP).

Both look at all pairs of N images and N captions, but never hold the N x N matrix: they are
computed in blocks of rows, value and gradient in one go. On several ranks each rank has B of the
pairs, gathers the captions of all and owns the rows of its own images. It gives its share: the
mean of the shares over ranks, and of their gradients, is what one process would get from all pairs.
That fits what data-parallel wrappers do, which average gradients.

All losses are in nats. Letters: B pairs of this rank, N pairs of all ranks, E embedding, b rows of
a block.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from coca.model.losses.collectives import (
    all_gather,
    all_reduce_logsumexp,
    rank_of,
    reduce_scatter,
)

BLOCK_ROWS = 512
"""Rows at a time; more made nothing faster on two cores, and less costs the matrix products."""


class Contrast(NamedTuple):
    """A loss over pairs, and what comes with it for nothing."""

    loss: Float[Tensor, ""]
    """This rank's share; carries the graph."""
    image_to_text: Float[Tensor, ""]
    """Share of this rank's images whose own caption is the nearest of all; 0 to 1."""


def contrastive_loss(
    image_embedding: Float[Tensor, "B E"],
    text_embedding: Float[Tensor, "B E"],
    logit_scale: Float[Tensor, ""],
    *,
    reduction: Literal["sum", "mean"] = "sum",
    block_rows: int = BLOCK_ROWS,
    group: dist.ProcessGroup | None = None,
) -> Contrast:
    """Cross entropy of matching each image to its caption and each caption to its image.

    Equal to `contrastive_loss_plain` on one rank; peak memory is a few times `block_rows` x N.

    Args:
        image_embedding: Unit vectors; each rank gives the same number of them.
        text_embedding: Unit vectors; row i belongs to image i.
        logit_scale: One over the temperature.
        reduction: `sum` adds both directions, as the paper's equation does; `mean` averages
            them, as OpenCLIP does, so the paper's weights 2:1 are 1:1 there.
        block_rows: Images at a time.
        group: The ranks that share the pairs; None: the default group if there is one.
    """
    directions = 1.0 if reduction == "sum" else 0.5
    return Contrast(
        *_Blocked.apply(  # type: ignore[no-untyped-call]
            image_embedding, text_embedding, logit_scale, None, directions, block_rows, group
        )
    )


def sigmoid_loss(
    image_embedding: Float[Tensor, "B E"],
    text_embedding: Float[Tensor, "B E"],
    logit_scale: Float[Tensor, ""],
    logit_bias: Float[Tensor, ""],
    *,
    block_rows: int = BLOCK_ROWS,
    group: dist.ProcessGroup | None = None,
) -> Contrast:
    """Whether an image and a caption belong together, asked of each of the N x N pairs.

    The sum over all pairs divided by N (Zhai et al. 2023, arXiv 2303.15343, equation 1). Equal to
    `sigmoid_loss_plain` on one rank.

    Args:
        image_embedding: Unit vectors; each rank gives the same number of them.
        text_embedding: Unit vectors; row i belongs to image i.
        logit_scale: One over the temperature; the source begins at 10.
        logit_bias: Added to each logit; the source begins at -10, since few pairs belong together.
        block_rows: Images at a time.
        group: The ranks that share the pairs; None: the default group if there is one.
    """
    return Contrast(
        *_Blocked.apply(  # type: ignore[no-untyped-call]
            image_embedding, text_embedding, logit_scale, logit_bias, 1.0, block_rows, group
        )
    )


def contrastive_loss_plain(
    image_embedding: Float[Tensor, "B E"],
    text_embedding: Float[Tensor, "B E"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Both directions of one rank by N x N: what `contrastive_loss` is tested against."""
    similarity = logit_scale * image_embedding @ text_embedding.T
    partner = torch.arange(len(similarity), device=similarity.device)
    return F.cross_entropy(similarity, partner) + F.cross_entropy(similarity.T, partner)


def sigmoid_loss_plain(
    image_embedding: Float[Tensor, "B E"],
    text_embedding: Float[Tensor, "B E"],
    logit_scale: Float[Tensor, ""],
    logit_bias: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """The sigmoid loss on one rank by N x N: what `sigmoid_loss` is tested against."""
    logits = logit_scale * image_embedding @ text_embedding.T + logit_bias
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(logits)


class _Pairs:
    """Similarities of this rank's images to all captions, and the way back to their gradients."""

    def __init__(
        self,
        images: Float[Tensor, "B E"],
        texts: Float[Tensor, "B E"],
        scale: Float[Tensor, ""],
        block_rows: int,
        group: dist.ProcessGroup | None,
    ) -> None:
        # fp32: a cosine times 100 loses its digits in bf16.
        self.images, self.scale, self.group = images.float(), scale.float(), group
        self.texts = all_gather(texts.float(), group)
        self.first = rank_of(group) * len(images)
        """The place of this rank's first caption among all."""
        self._block_rows = min(block_rows, len(images))
        self._similarity = self.new_block()
        self._single_is_known = False
        self._image_gradient = torch.empty_like(self.images)
        self._text_gradient = torch.zeros_like(self.texts)

    def new_block(self) -> Float[Tensor, "b N"]:
        """Room for one block, to be used again and again: fresh memory costs page faults."""
        return self.images.new_empty(self._block_rows, len(self.texts))

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "b N"]]]:
        """Each block's rows and similarities, which are overwritten by the next block's."""
        count = len(self.images)
        for start in range(0, count, self._block_rows):
            rows = slice(start, min(start + self._block_rows, count))
            similarity = self._similarity[: rows.stop - start]
            if not self._single_is_known:
                torch.mm(self.images[rows] * self.scale, self.texts.T, out=similarity)
            # A single block is still there when the second pass comes for it.
            self._single_is_known = self._block_rows == count
            yield rows, similarity

    def positives(self, rows: slice, block: Float[Tensor, "b N"]) -> Float[Tensor, " b"]:
        """The entries of a block where an image meets its own caption, as a view."""
        return block.diagonal(self.first + rows.start)

    def hits(self, rows: slice, nearest: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """How many of a block's images have their own caption for nearest."""
        own = torch.arange(self.first + rows.start, self.first + rows.stop, device=nearest.device)
        return (nearest == own).sum().float()

    def add_gradient(self, rows: slice, of_similarity: Float[Tensor, "b N"]) -> None:
        """Takes in the gradient of the loss by the similarities of a block."""
        torch.mm(of_similarity, self.texts, out=self._image_gradient[rows])
        self._text_gradient.addmm_(of_similarity.T, self.images[rows])

    def gradients(self, weight: float) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients by images, captions and scale, once all blocks are in."""
        images = self._image_gradient.mul_(weight * self.scale)
        texts = reduce_scatter(self._text_gradient, self.group).mul_(weight * self.scale)
        # The sum of similarity x its gradient over the scale, without the matrix.
        return images, texts, (images * self.images).sum() / self.scale


class _Share(NamedTuple):
    """What one rank computes, before it is weighted."""

    loss: Float[Tensor, ""]
    hits: Float[Tensor, ""]
    bias_gradient: Float[Tensor, ""] | None


def _softmax(pairs: _Pairs, *, with_gradient: bool) -> _Share:
    """Two passes: first every normaliser, since a column's needs all rows, then the gradient."""
    positives = pairs.images.new_empty(len(pairs.images))
    row_normaliser = torch.empty_like(positives)
    column_normaliser = pairs.images.new_full((len(pairs.texts),), -torch.inf)
    hits = pairs.images.new_zeros(())
    room = pairs.new_block()
    for rows, similarity in pairs.blocks():
        work = room[: len(similarity)]
        positives[rows] = pairs.positives(rows, similarity)
        highest, nearest = similarity.max(dim=1)
        hits += pairs.hits(rows, nearest)
        total = torch.sub(similarity, highest[:, None], out=work).exp_().sum(dim=1)
        row_normaliser[rows] = highest + total.log()
        highest = similarity.amax(dim=0)
        total = torch.sub(similarity, highest, out=work).exp_().sum(dim=0)
        column_normaliser = torch.logaddexp(column_normaliser, highest + total.log())
    column_normaliser = all_reduce_logsumexp(column_normaliser, pairs.group)
    own = column_normaliser[pairs.first : pairs.first + len(positives)]
    loss = (row_normaliser - positives).sum() + (own - positives).sum()
    if with_gradient:
        for rows, similarity in pairs.blocks():
            gradient = torch.sub(
                similarity, row_normaliser[rows, None], out=room[: len(similarity)]
            )
            gradient.exp_().add_(similarity.sub_(column_normaliser).exp_())
            pairs.positives(rows, gradient).sub_(2)
            pairs.add_gradient(rows, gradient)
    return _Share(loss, hits, None)


def _sigmoid(pairs: _Pairs, bias: Float[Tensor, ""], *, with_gradient: bool) -> _Share:
    """One pass: no pair needs to know of another."""
    loss, hits, bias_gradient = pairs.images.new_zeros(3).unbind()
    room = pairs.new_block()
    for rows, similarity in pairs.blocks():
        logits = similarity.add_(bias)
        hits += pairs.hits(rows, logits.argmax(dim=1))
        # As if no pair belonged together, then corrected: softplus(-x) = softplus(x) - x.
        loss += F.softplus(logits).sum() - pairs.positives(rows, logits).sum()
        if with_gradient:
            gradient = torch.sigmoid(logits, out=room[: len(logits)])
            pairs.positives(rows, gradient).sub_(1)
            bias_gradient += gradient.sum()
            pairs.add_gradient(rows, gradient)
    return _Share(loss, hits, bias_gradient)


class _Blocked(torch.autograd.Function):
    """A loss that is computed together with its gradients, so that backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        factor: float,
        block_rows: int,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor]:
        with_gradient = any(ctx.needs_input_grad)
        with torch.autocast(images.device.type, enabled=False):
            pairs = _Pairs(images, texts, scale, block_rows, group)
            if bias is None:
                share = _softmax(pairs, with_gradient=with_gradient)
            else:
                share = _sigmoid(pairs, bias.float(), with_gradient=with_gradient)
            # Over the pairs of all ranks, times the ranks: their mean is then the global loss.
            weight = factor / len(pairs.images)
            if with_gradient:
                by_bias = None if share.bias_gradient is None else share.bias_gradient * weight
                ctx.save_for_backward(*pairs.gradients(weight), by_bias)
        accuracy = share.hits / len(images)
        ctx.mark_non_differentiable(accuracy)
        return share.loss * weight, accuracy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        upstream = grad_outputs[0]
        scaled = (None if g is None else g * upstream for g in ctx.saved_tensors)
        return (*scaled, None, None, None)
