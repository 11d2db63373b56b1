"""Contrastive losses in nats: softmax (CoCa, section 3.2) and sigmoid (SigLIP).

Both compare all pairs of N images and N captions without the N x N matrix: value and gradient are
computed in blocks of rows. On several ranks, each rank has B of the pairs, gathers the captions of
all ranks and computes the rows of its own images. The mean over ranks of these losses, and of their
gradients, equals the result of one process on all pairs. Data-parallel wrappers compute this mean.

Dimensions: B pairs of this rank, N pairs of all ranks, E embedding, b rows of a block.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from coca.model.losses.collectives import all_gather, all_reduce_logsumexp, rank_of, reduce_scatter

BLOCK_ROWS = 512
"""Rows per block; more rows were not faster on two CPU cores, fewer slow the matrix products."""


MAX_TEMPERATURE, MIN_TEMPERATURE = 1.0, 0.01
"""Range of the learned temperature; 0.01 is the bound that CLIP set."""


@torch.no_grad()
def clamp_temperature_(log_scale: Float[Tensor, ""]) -> None:
    """Clamp the learned temperature to 0.01 to 1; call it after each optimizer step."""
    log_scale.clamp_(-math.log(MAX_TEMPERATURE), -math.log(MIN_TEMPERATURE))


class ContrastiveOutput(NamedTuple):
    """A contrastive loss and its accuracy."""

    loss: Float[Tensor, ""]
    """This rank's loss; carries the graph."""
    image_to_text: Float[Tensor, ""]
    """Image-to-text recall@1: fraction of this rank's images nearest to their own caption; 0 to
    1."""


def contrastive_loss(
    image_embedding: Float[Tensor, "B E"],
    text_embedding: Float[Tensor, "B E"],
    logit_scale: Float[Tensor, ""],
    *,
    reduction: Literal["sum", "mean"] = "sum",
    block_rows: int = BLOCK_ROWS,
    group: dist.ProcessGroup | None = None,
) -> ContrastiveOutput:
    """Compute the symmetric softmax contrastive loss (InfoNCE) over all pairs of all ranks.

    On one rank equal to the loss of `examples/minimal_coca.py`; peak memory is a few times
    `block_rows` x N.
    """
    directions = 1.0 if reduction == "sum" else 0.5
    return ContrastiveOutput(
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
) -> ContrastiveOutput:
    """Compute the sigmoid loss (SigLIP): binary classification of each of the N x N pairs.

    The sum over all pairs divided by N (Zhai et al. 2023, arXiv 2303.15343, equation 1).
    """
    return ContrastiveOutput(
        *_Blocked.apply(  # type: ignore[no-untyped-call]
            image_embedding, text_embedding, logit_scale, logit_bias, 1.0, block_rows, group
        )
    )


class _Pairs:
    """Blocked similarities of this rank's images to all captions, and their gradients."""

    def __init__(
        self,
        images: Float[Tensor, "B E"],
        texts: Float[Tensor, "B E"],
        scale: Float[Tensor, ""],
        block_rows: int,
        group: dist.ProcessGroup | None,
    ) -> None:
        # fp32: a cosine times 100 loses precision in bf16.
        self.images, self.scale, self.group = images.float(), scale.float(), group
        self.texts = all_gather(texts.float(), group)
        self.first = rank_of(group) * len(images)
        """Index of this rank's first caption among the captions of all ranks."""
        self._block_rows = min(block_rows, len(images))
        self._similarity = self.new_block()
        self._single_is_known = False
        self._image_gradient = torch.empty_like(self.images)
        self._text_gradient = torch.zeros_like(self.texts)

    def new_block(self) -> Float[Tensor, "b N"]:
        """Allocate a buffer for one block, for reuse: fresh memory costs page faults."""
        return self.images.new_empty(self._block_rows, len(self.texts))

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "b N"]]]:
        """Yield each block's rows and similarities; the next block overwrites them."""
        count = len(self.images)
        for start in range(0, count, self._block_rows):
            rows = slice(start, min(start + self._block_rows, count))
            similarity = self._similarity[: rows.stop - start]
            if not self._single_is_known:
                torch.mm(self.images[rows] * self.scale, self.texts.T, out=similarity)
            # The second pass reuses the similarities of a single block.
            self._single_is_known = self._block_rows == count
            yield rows, similarity

    def positives(self, rows: slice, block: Float[Tensor, "b N"]) -> Float[Tensor, " b"]:
        """Return the positives of a block, an image with its own caption, as a view."""
        return block.diagonal(self.first + rows.start)

    def hits(self, rows: slice, nearest: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Count the images of a block whose nearest caption is their own."""
        own = torch.arange(self.first + rows.start, self.first + rows.stop, device=nearest.device)
        return (nearest == own).sum().float()

    def add_gradient(self, rows: slice, of_similarity: Float[Tensor, "b N"]) -> None:
        """Accumulate the gradients of images and captions from those of a block's similarities."""
        torch.mm(of_similarity, self.texts, out=self._image_gradient[rows])
        self._text_gradient.addmm_(of_similarity.T, self.images[rows])

    def gradients(self, weight: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of images, captions and scale, after all blocks."""
        images = self._image_gradient.mul_(weight * self.scale)
        texts = reduce_scatter(self._text_gradient, self.group).mul_(weight * self.scale)
        # Equals the sum of similarity x gradient / scale, without the matrix.
        return images, texts, (images * self.images).sum() / self.scale


class _RankLoss(NamedTuple):
    """Unweighted results of one rank."""

    loss: Float[Tensor, ""]
    hits: Float[Tensor, ""]
    bias_gradient: Float[Tensor, ""] | None


def _softmax(pairs: _Pairs, *, with_gradient: bool) -> _RankLoss:
    """Compute the softmax loss in two passes: normalizers, then gradients.

    The normalizer of a column needs all rows.
    """
    positives = pairs.images.new_empty(len(pairs.images))
    row_normaliser = torch.empty_like(positives)
    column_normaliser = pairs.images.new_full((len(pairs.texts),), -torch.inf)
    hits = pairs.images.new_zeros(())
    buffer = pairs.new_block()
    for rows, similarity in pairs.blocks():
        work = buffer[: len(similarity)]
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
                similarity, row_normaliser[rows, None], out=buffer[: len(similarity)]
            )
            gradient.exp_().add_(similarity.sub_(column_normaliser).exp_())
            pairs.positives(rows, gradient).sub_(2)
            pairs.add_gradient(rows, gradient)
    return _RankLoss(loss, hits, None)


def _sigmoid(pairs: _Pairs, bias: Float[Tensor, ""], *, with_gradient: bool) -> _RankLoss:
    """Compute the sigmoid loss in one pass, since pairs are independent."""
    loss, hits, bias_gradient = pairs.images.new_zeros(3).unbind()
    buffer = pairs.new_block()
    for rows, similarity in pairs.blocks():
        logits = similarity.add_(bias)
        hits += pairs.hits(rows, logits.argmax(dim=1))
        # All pairs as negatives, then corrected for positives: softplus(-x) = softplus(x) - x.
        loss += F.softplus(logits).sum() - pairs.positives(rows, logits).sum()
        if with_gradient:
            gradient = torch.sigmoid(logits, out=buffer[: len(logits)])
            pairs.positives(rows, gradient).sub_(1)
            bias_gradient += gradient.sum()
            pairs.add_gradient(rows, gradient)
    return _RankLoss(loss, hits, bias_gradient)


class _Blocked(torch.autograd.Function):
    """Blocked contrastive loss, with gradients computed in `forward` and scaled in `backward`."""

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
                local = _softmax(pairs, with_gradient=with_gradient)
            else:
                local = _sigmoid(pairs, bias.float(), with_gradient=with_gradient)
            # The mean over ranks of these losses is the global loss.
            weight = factor / len(pairs.images)
            if with_gradient:
                by_bias = None if local.bias_gradient is None else local.bias_gradient * weight
                ctx.save_for_backward(*pairs.gradients(weight), by_bias)
        accuracy = local.hits / len(images)
        ctx.mark_non_differentiable(accuracy)
        return local.loss * weight, accuracy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        upstream = grad_outputs[0]
        scaled = (None if g is None else g * upstream for g in ctx.saved_tensors)
        return (*scaled, None, None, None)
