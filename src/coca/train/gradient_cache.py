"""Micro-batches with the gradient of the whole batch (GradCache).

The contrastive loss needs all pairs of a step, captioning does not. So a batch that is too large
for memory passes through the model twice in micro-batches (Gao et al. 2021, arXiv 2101.06983,
adapted to CoCa). The first pass computes embeddings without graph, then the gradient of the
contrastive loss with respect to each embedding. The second pass runs the whole model with graph.
Only two (B, E) tensors are kept between the passes, and the multimodal decoder runs once.

Dimensions: B pairs of this rank, E embedding.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coca.data.batch import Batch
from coca.train.distributed.parallel import ParallelModel
from coca.train.losses import Embedded, Losses, add_losses
from coca.train.objective import ModelT_contra, Objective, Totals

ModelT = TypeVar("ModelT", bound=nn.Module)

RandomState: TypeAlias = tuple[Tensor, Tensor | None]
"""State of the CPU generator, and of the accelerator's if there is one."""


@runtime_checkable
class ChunkedLoss(Objective[ModelT_contra], Protocol[ModelT_contra]):
    """An objective that supports micro-batches, with losses over the whole batch.

    The contrastive loss depends on embeddings only. So they are computed first for each micro-batch
    without graph. Its gradient with respect to them replaces the loss in the second pass.
    """

    def totals(self, model: ModelT_contra, batch: Batch) -> Totals:
        """Compute the numbers of the whole batch; all ranks must call it."""
        ...

    def first_pass(self, model: ModelT_contra, batch: Batch) -> Embedded | None:
        """Compute the inputs of the contrastive loss; None without one."""
        ...

    def match(self, embedded: Embedded) -> Losses:
        """Compute the weighted contrastive loss of all pairs; all ranks must call it."""
        ...

    def run_part(
        self, model: ModelT_contra, batch: Batch, totals: Totals
    ) -> tuple[Losses, Embedded | None]:
        """Compute the per-sample losses of a micro-batch, and the inputs of `match` with graph."""
        ...


def backward_in_parts(
    model: ParallelModel[ModelT],
    objective: ChunkedLoss[ModelT],
    batch: Batch,
    parts: Sequence[Batch],
    autocast: Callable[[], AbstractContextManager[None]],
) -> Losses:
    """Accumulate the gradients of a batch, and return its losses without graph.

    Args:
        model: The model.
        objective: The losses.
        batch: The whole batch, for its totals.
        parts: Its micro-batches.
        autocast: Context of each forward pass.
    """
    states, firsts = _first_pass(model, objective, parts, autocast)
    totals = objective.totals(model.model, batch)
    losses, gradients = _match(objective, firsts) if firsts else (None, [None] * len(parts))
    for number, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
        ready = part.to(model.device)
        if firsts:
            # Both passes need equal random numbers, or the gradient belongs to other embeddings.
            _restore_random(states[number], model.device)
        run = partial(_second_pass, objective, ready, totals, gradient)
        with model.sync(number == len(parts) - 1):
            with autocast():
                own = model.run(run)
            own.total.backward()
        own = own._replace(total=own.total.detach())
        losses = own if losses is None else add_losses(losses, own)
    assert losses is not None, "a batch has at least one pair"
    return losses


@torch.no_grad()
def _first_pass(
    model: ParallelModel[ModelT],
    objective: ChunkedLoss[ModelT],
    parts: Sequence[Batch],
    autocast: Callable[[], AbstractContextManager[None]],
) -> tuple[list[RandomState], list[Embedded]]:
    """Run the first pass of each part, if a loss needs it; return the random state before each."""
    states, firsts = [], []
    for part in parts:
        states.append(_random_state(model.device))
        # Moved again in the second pass: at 576 pixels, 8,192 images are 33 GB in fp32.
        ready = part.to(model.device)
        with autocast():
            own = model.run(partial(objective.first_pass, batch=ready))
        if own is None:
            break
        firsts.append(own)
    return states, firsts


def _match(
    objective: ChunkedLoss[ModelT], parts: Sequence[Embedded]
) -> tuple[Losses, list[Embedded]]:
    """Compute the contrastive loss of all pairs, and its gradient for each part's embeddings."""
    whole = Embedded(
        torch.cat([part.images for part in parts]),
        torch.cat([part.texts for part in parts]),
        parts[0].scale.detach(),
        None if parts[0].bias is None else parts[0].bias.detach(),
    )
    leaves = [tensor.requires_grad_() for tensor in whole if tensor is not None]
    losses = objective.match(whole)
    by_images, by_texts, *by_numbers = torch.autograd.grad(losses.total, leaves)
    sizes = [len(part.images) for part in parts]
    gradients = []
    for size, *rows in zip(sizes, by_images.split(sizes), by_texts.split(sizes), strict=True):
        # Scale and bias are used once for all pairs: each part gets a fraction of their gradient.
        fractions = (gradient * (size / len(whole.images)) for gradient in by_numbers)
        gradients.append(Embedded(*rows, *fractions))
    return losses._replace(total=losses.total.detach()), gradients


def _second_pass(
    objective: ChunkedLoss[ModelT],
    batch: Batch,
    totals: Totals,
    gradient: Embedded | None,
    model: ModelT,
) -> Losses:
    """Run a part with graph; its total also backpropagates the gradient of its embeddings."""
    losses, embedded = objective.run_part(model, batch, totals)
    if embedded is None or gradient is None:
        return losses
    return losses._replace(total=losses.total + _surrogate_loss(embedded, gradient))


def _surrogate_loss(embedded: Embedded, gradient: Embedded) -> Float[Tensor, ""]:
    """Compute a zero-valued loss whose gradient with respect to `embedded` is `gradient`."""
    products = [
        (tensor.float() * partial).sum()
        for tensor, partial in zip(embedded, gradient, strict=True)
        if tensor is not None and partial is not None
    ]
    total = torch.stack(products).sum()
    return total - total.detach()


def _random_state(device: torch.device) -> RandomState:
    """Return the state of torch's global generators, used by layers such as patch dropout."""
    accelerator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), accelerator


def _restore_random(state: RandomState, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
