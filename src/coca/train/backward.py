"""Forward and backward pass of one step, at once or in micro-batches, and losses of evaluation.

Micro-batches have the gradient of the whole batch (GradCache). The contrastive loss needs all pairs
of a step, captioning does not. So a batch that is too large for memory passes through the model
twice in micro-batches (Gao et al. 2021, arXiv 2101.06983, adapted to CoCa). The first pass computes
embeddings without graph, then the gradient of the contrastive loss with respect to each embedding.
The second pass runs the whole model with graph. Only two (B, E) tensors are kept between the
passes, and the multimodal decoder runs once.

Dimensions: B pairs of this rank, E embedding.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.losses.collectives import all_reduce_sum, world_size
from coca.train.blocks import batch_norms, compilation
from coca.train.checkpoints import random_state, restore_random
from coca.train.distributed.parallel import ParallelModel
from coca.train.losses import Embedded, Losses, add_losses
from coca.train.objective import CoCaObjective, Objective, Totals

ModelT = TypeVar("ModelT", bound=nn.Module)


def backward(
    model: ParallelModel[ModelT],
    objective: Objective[ModelT],
    batch: Batch,
    *,
    micro_batch: int | None = None,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Losses:
    """Accumulate the gradients of one step in the model, without an update.

    Returns:
        Losses of the pairs of all ranks, equal on each rank; without graph.
    """
    with compilation() if model.is_compiled else nullcontext():
        if micro_batch is None or micro_batch >= len(batch.keys):
            ready = batch.to(model.device)
            with model.sync(True):
                with autocast():
                    losses = model.run(lambda inner: objective(inner, ready))
                losses.total.backward()
            return _mean_over_ranks(losses)
        if not isinstance(objective, CoCaObjective):
            raise ConfigError(
                f"micro_batch is {micro_batch}, but {type(objective).__name__} needs the whole "
                f"batch; remove micro_batch, or use batches of {micro_batch} pairs"
            )
        if norms := batch_norms(model.model):
            raise ConfigError(
                f"micro_batch is {micro_batch}, but the batch norm {norms[0]} is trained, which "
                f"needs the whole batch of {len(batch.keys)} pairs; freeze it "
                "(train.optimizer.freeze), or remove micro_batch"
            )
        return _mean_over_ranks(
            _backward_in_parts(model, objective, batch, batch.split(micro_batch), autocast)
        )


@torch.no_grad()
def evaluate_batch(
    model: ParallelModel[ModelT],
    objective: Objective[ModelT],
    batch: Batch,
    *,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Losses:
    """Compute the losses of a batch in evaluation mode; arguments and result as of `backward`."""
    ready = batch.to(model.device)
    with autocast():
        losses = model.evaluate(lambda inner: objective(inner, ready))
    return _mean_over_ranks(losses)


def _mean_over_ranks(losses: Losses) -> Losses:
    """Average the losses over all ranks, in one collective."""
    values = torch.stack([losses.total.detach(), *losses.parts.values()])
    total, *metrics = (all_reduce_sum(values) / world_size()).unbind()
    return Losses(total, dict(zip(losses.parts, metrics, strict=True)))


# Micro-batches.


def _backward_in_parts(
    model: ParallelModel[Any],
    objective: CoCaObjective,
    batch: Batch,
    parts: Sequence[Batch],
    autocast: Callable[[], AbstractContextManager[None]],
) -> Losses:
    """Accumulate the gradients of a batch from its micro-batches; return its losses."""
    states, firsts = _first_pass(model, objective, parts, autocast)
    totals = objective.totals(model.model, batch)
    losses, gradients = _match(objective, firsts) if firsts else (None, [None] * len(parts))
    for number, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
        ready = part.to(model.device)
        if firsts:
            # Both passes need equal random numbers, or the gradient belongs to other embeddings.
            restore_random(states[number], model.device)
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
    model: ParallelModel[Any],
    objective: CoCaObjective,
    parts: Sequence[Batch],
    autocast: Callable[[], AbstractContextManager[None]],
) -> tuple[list[dict[str, Any]], list[Embedded]]:
    """Run the first pass of each part, if a loss needs it; return the random state before each."""
    states, firsts = [], []
    for part in parts:
        states.append(random_state(model.device))
        # Moved again in the second pass: at 576 pixels, 8,192 images are 33 GB in fp32.
        ready = part.to(model.device)
        with autocast():
            own = model.run(partial(objective.first_pass, batch=ready))
        if own is None:
            break
        firsts.append(own)
    return states, firsts


def _match(objective: CoCaObjective, parts: Sequence[Embedded]) -> tuple[Losses, list[Embedded]]:
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
    objective: CoCaObjective,
    batch: Batch,
    totals: Totals,
    gradient: Embedded | None,
    model: CoCa,
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
