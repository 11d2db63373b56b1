"""The training losses (CoCa, section 3.2): contrastive, captioning, and optional classification.

All are in nats. Letters: B batch, E embedding, M positions that predict a word, D width,
V vocabulary, K classes.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coca.core.errors import ConfigError


def contrastive_loss(
    image_embedding: Float[Tensor, "B E"],
    text_embedding: Float[Tensor, "B E"],
    logit_scale: Float[Tensor, ""],
    *,
    reduction: Literal["sum", "mean"] = "sum",
) -> Float[Tensor, ""]:
    """Cross entropy of matching each picture to its caption and each caption to its picture.

    Args:
        image_embedding: Unit vectors.
        text_embedding: Unit vectors; row i belongs to picture i.
        logit_scale: One over the temperature.
        reduction: `sum` adds both directions, as the paper's equation does; `mean` averages
            them, as OpenCLIP does, so the paper's weights 2:1 are 1:1 there.
    """
    # fp32: a cosine times 100 loses its digits in bf16.
    similarity = logit_scale.float() * image_embedding.float() @ text_embedding.float().T
    partner = torch.arange(len(similarity), device=similarity.device)
    both = F.cross_entropy(similarity, partner) + F.cross_entropy(similarity.T, partner)
    return both if reduction == "sum" else both / 2


def captioning_loss(
    states: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    vocabulary_weight: Float[Tensor, "V D"],
    *,
    chunk_size: int = 1024,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean cross entropy of the next word, over real positions.

    The M x V logits never exist: they are made, used and dropped in chunks of `chunk_size`
    positions, and their gradient is taken in the same pass. Equal to `captioning_loss_plain`.

    Args:
        states: Decoder states that predict a word.
        targets: The words.
        vocabulary_weight: Matrix from states to logits.
        chunk_size: Positions at a time; peak memory is `chunk_size` x V numbers.
        label_smoothing: Share of the target spread over all words; 0 to 1.
    """
    return _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, vocabulary_weight, targets, chunk_size, label_smoothing
    )


def captioning_loss_plain(
    states: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    vocabulary_weight: Float[Tensor, "V D"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """The same loss in one line: the reference that `captioning_loss` is tested against."""
    logits = F.linear(states, vocabulary_weight).float()
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def classification_loss(
    logits: Float[Tensor, "B K"],
    targets: Int[Tensor, " B"] | Float[Tensor, "B K"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Softmax cross entropy against class indices, or against rows of label weights.

    Rows may be one-hot, multi-hot or smoothed; each is scaled to sum to 1, so a picture with
    several labels asks for equal shares.

    Raises:
        ConfigError: A row of weights is negative or all zero.
    """
    if targets.ndim == 2:
        total = targets.sum(dim=1, keepdim=True)
        if bool((targets < 0).any()) or bool((total <= 0).any()):
            raise ConfigError(
                "each row of class targets needs weights of at least 0 with a positive sum"
            )
        targets = targets / total
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Vocabulary layer and cross entropy in one, a chunk of positions at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk_size: int,
        label_smoothing: float,
    ) -> Tensor:
        positions = len(states)
        want_states, want_weight = ctx.needs_input_grad[:2]
        loss = torch.zeros((), dtype=torch.float32, device=states.device)
        grad_states = torch.empty_like(states) if want_states else None
        grad_weight = torch.zeros_like(weight) if want_weight else None
        for start in range(0, positions, chunk_size):
            part = states[start : start + chunk_size]
            words = targets[start : start + chunk_size, None]
            # `linear` follows autocast; the softmax is always fp32.
            log_p = F.log_softmax(F.linear(part, weight).float(), dim=1)
            loss -= (1 - label_smoothing) * log_p.gather(1, words).sum()
            if label_smoothing:
                loss -= label_smoothing * log_p.mean(dim=1).sum()
            if want_states or want_weight:
                # d loss / d logits = softmax - target distribution, scaled by the mean.
                grad = log_p.exp_()
                grad.scatter_add_(
                    1, words, torch.full_like(words, label_smoothing - 1, dtype=grad.dtype)
                )
                grad -= label_smoothing / grad.shape[1]
                grad = (grad / positions).to(part.dtype)
                if grad_states is not None:
                    grad_states[start : start + chunk_size] = grad @ weight.to(part.dtype)
                if grad_weight is not None:
                    grad_weight += grad.T @ part
        ctx.save_for_backward(grad_states, grad_weight)
        return loss / max(positions, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = grad_outputs
        grad_states, grad_weight = ctx.saved_tensors
        return (
            None if grad_states is None else grad_states * upstream.to(grad_states.dtype),
            None if grad_weight is None else grad_weight * upstream.to(grad_weight.dtype),
            None,
            None,
            None,
        )
