"""Forward and backward of one training step: the whole batch at once, or exactly so in parts.

The contrastive loss needs all pairs of a step, captioning does not. So a batch that is too large
for memory goes through the model in parts, twice (gradient caching, Gao et al. 2021, arXiv
2101.06983, fitted to CoCa): first the embeddings alone, without graph; then, when the gradient of
the contrastive loss by each embedding is known, all of the model, with graph. Two (B, E) tensors
are all that is kept between both, and the multimodal decoder runs once.

Dimensions: B pairs of this rank, E embedding.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.data.sample import Batch
from coca.model.losses.collectives import all_reduce_sum, world_size
from coca.train.objective import ChunkedLoss, Embedded, Losses, Objective, add_losses
from coca.train.parallel import ParallelModel

ModelT = TypeVar("ModelT", bound=nn.Module)

RandomState: TypeAlias = tuple[Tensor, Tensor | None]
"""Of the CPU, and of the accelerator if there is one."""


def backward(
    model: ParallelModel[ModelT],
    objective: Objective[ModelT],
    batch: Batch,
    *,
    micro_batch: int | None = None,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Losses:
    """Adds the gradient of one step to the model's; without an update.

    Args:
        model: Each rank calls this with as many pairs as the others.
        objective: What the step minimises.
        batch: This rank's pairs, where the loader left them: each part is moved to the model's
            device, and its images become floats, when it is its turn.
        micro_batch: Pairs that go through the model at a time; None: all. Fewer need less memory
            and, where a loss ties pairs together, another forward pass without the decoder.
        autocast: Gives the context that each forward pass runs in.

    Returns:
        Figures of the pairs of all ranks, the same on each; without graph.

    Raises:
        ConfigError: The objective cannot go through a batch in parts.
    """
    if micro_batch is None or micro_batch >= len(batch.keys):
        ready = batch.to(model.device)
        with model.sync(True):
            with autocast():
                losses = model.run(lambda inner: objective(inner, ready))
            losses.total.backward()
        return _mean_over_ranks(losses)
    if not isinstance(objective, ChunkedLoss):
        raise ConfigError(
            f"micro_batch is {micro_batch}, but {type(objective).__name__} reads a batch as a "
            f"whole; leave micro_batch away, or make batches of {micro_batch} pairs"
        )
    return _mean_over_ranks(
        _backward_in_parts(model, objective, batch, batch.split(micro_batch), autocast)
    )


def _backward_in_parts(
    model: ParallelModel[ModelT],
    objective: ChunkedLoss[ModelT],
    batch: Batch,
    parts: Sequence[Batch],
    autocast: Callable[[], AbstractContextManager[None]],
) -> Losses:
    totals = objective.totals(model.model, batch)
    states, embedded = _embed(model, objective, parts, autocast)
    losses, pulls = _match(objective, embedded) if embedded else (None, [None] * len(parts))
    for number, (part, pull) in enumerate(zip(parts, pulls, strict=True)):
        ready = part.to(model.device)
        if pull is not None:
            # Both passes must draw the same, or the gradient would belong to other embeddings.
            _restore_random(states[number], model.device)
        run = partial(objective.run_part, batch=ready, totals=totals, pull=pull)
        with model.sync(number == len(parts) - 1):
            with autocast():
                own = model.run(run)
            own.total.backward()
        own = own._replace(total=own.total.detach())
        losses = own if losses is None else add_losses(losses, own)
    assert losses is not None, "a batch has at least one pair"
    return losses


@torch.no_grad()
def _embed(
    model: ParallelModel[ModelT],
    objective: ChunkedLoss[ModelT],
    parts: Sequence[Batch],
    autocast: Callable[[], AbstractContextManager[None]],
) -> tuple[list[RandomState], list[Embedded]]:
    """Embeddings of each part, with the random state before it; none if no loss asks for them."""
    states, embedded = [], []
    for part in parts:
        states.append(_random_state(model.device))
        # Moved again for the second pass: at 576 pixels 8,192 images are 33 GB of fp32.
        ready = part.to(model.device)
        with autocast():
            own = model.run(partial(objective.embed, batch=ready))
        if own is None:
            break
        embedded.append(own)
    return states, embedded


def _match(
    objective: ChunkedLoss[ModelT], parts: Sequence[Embedded]
) -> tuple[Losses, list[Embedded]]:
    """The loss that ties all pairs together, and its gradient by what it read of each part."""
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
    pulls = []
    for size, *rows in zip(sizes, by_images.split(sizes), by_texts.split(sizes), strict=True):
        # Scale and bias are read once for all pairs: each part brings its share of them.
        shares = (gradient * (size / len(whole.images)) for gradient in by_numbers)
        pulls.append(Embedded(*rows, *shares))
    return losses._replace(total=losses.total.detach()), pulls


def _mean_over_ranks(losses: Losses) -> Losses:
    """Figures of all ranks, in one exchange."""
    values = torch.stack([losses.total.detach(), *losses.parts.values()])
    total, *figures = (all_reduce_sum(values) / world_size()).unbind()
    return Losses(total, dict(zip(losses.parts, figures, strict=True)))


def _random_state(device: torch.device) -> RandomState:
    """What the layers of a model draw from, such as patch dropout."""
    accelerator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), accelerator


def _restore_random(state: RandomState, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
