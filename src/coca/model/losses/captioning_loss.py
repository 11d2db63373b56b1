"""Per-sample losses in nats: captioning (CoCa, section 3.2) and classification.

Dimensions: B batch, M positions with a label, D width, V vocabulary, K classes.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coca.core.errors import ConfigError


def captioning_loss(
    states: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    vocabulary_weight: Float[Tensor, "V D"],
    *,
    chunk_size: int = 1024,
    label_smoothing: float = 0.0,
    token_weight: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Compute the next-token cross entropy: its mean over labelled positions, or a weighted sum.

    The M x V logits are never materialized: chunks of `chunk_size` positions are computed, and
    their gradient in the same pass. Equal to `F.cross_entropy`, as in `examples/minimal_coca.py`.
    """
    if token_weight is None:
        token_weight = torch.full((), 1 / max(len(targets), 1), device=states.device)
    return _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, vocabulary_weight, targets, token_weight, chunk_size, label_smoothing
    )


def classification_loss(
    logits: Float[Tensor, "B K"],
    targets: Int[Tensor, " B"] | Float[Tensor, "B K"],
    *,
    label_smoothing: float = 0.0,
    image_weight: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Compute the softmax cross entropy against class indices or rows of class weights.

    Rows may be one-hot, multi-hot or smoothed. Each is scaled to sum to 1, so the labels of an
    image with several labels count equally. Targets on the host wait for no accelerator.
    """
    if targets.ndim == 2:
        total = targets.sum(dim=1, keepdim=True)
        if bool((targets < 0).any()) or bool((total <= 0).any()):
            raise ConfigError(
                "each row of class targets needs weights of at least 0 with a positive sum"
            )
        targets = targets / total
    targets = targets.to(logits.device, non_blocking=True)
    losses = F.cross_entropy(
        logits.float(), targets, label_smoothing=label_smoothing, reduction="none"
    )
    return losses.mean() if image_weight is None else losses.sum() * image_weight


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Fused vocabulary layer and cross entropy, one chunk of positions at a time.

    Softmax and gradient are computed in place in one chunk of logits. Fresh memory for each of
    them took a third of the time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        targets: Tensor,
        token_weight: Tensor,
        chunk_size: int,
        label_smoothing: float,
    ) -> Tensor:
        want_states, want_weight = ctx.needs_input_grad[:2]
        grad_states = torch.empty_like(states) if want_states else None
        grad_weight = torch.zeros_like(weight) if want_weight else None
        loss = torch.zeros((), dtype=torch.float32, device=states.device)
        # Matrix products in the autocast dtype if enabled; the softmax is always fp32.
        device = states.device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else states.dtype
        with torch.autocast(device, enabled=False):
            states, weight = states.to(dtype), weight.to(dtype)
            shape = (min(chunk_size, len(states)), len(weight))
            buffer = torch.empty(shape, dtype=torch.float32, device=states.device)
            for start in range(0, len(states), chunk_size):
                part = states[start : start + chunk_size]
                labels = targets[start : start + chunk_size, None]
                logits = _product(part, weight.T, out=buffer[: len(part)])
                logits -= logits.amax(dim=1, keepdim=True)
                chosen = (1 - label_smoothing) * logits.gather(1, labels)
                if label_smoothing:
                    chosen += label_smoothing * logits.mean(dim=1, keepdim=True)
                exponentials = logits.exp_()
                normaliser = exponentials.sum(dim=1, keepdim=True)
                loss += (normaliser.log() - chosen).sum()
                if not (want_states or want_weight):
                    continue
                # d loss / d logits = softmax - target distribution, times the token weight.
                gradient = exponentials.mul_(token_weight / normaliser)
                if label_smoothing:
                    gradient -= token_weight * (label_smoothing / len(weight))
                gradient.scatter_add_(
                    1, labels, ((label_smoothing - 1) * token_weight).expand(labels.shape)
                )
                gradient = gradient.to(dtype)
                if grad_states is not None:
                    grad_states[start : start + chunk_size] = gradient @ weight
                if grad_weight is not None:
                    _add_product(grad_weight, gradient.T, part)
        ctx.save_for_backward(grad_states, grad_weight)
        return loss * token_weight

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
            None,
        )


def _product(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
    """Compute a matrix product in the dtype of its factors and store it in that of `out`."""
    return torch.mm(left, right, out=out) if left.dtype == out.dtype else out.copy_(left @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
