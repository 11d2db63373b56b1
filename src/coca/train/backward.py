"""Backward passes of one step: micro-batches, the gradient cache, and non-finite gradients.

The contrastive loss needs all pairs of a step, captioning does not. So a batch that is too large
for memory passes through the model twice in micro-batches (GradCache, Gao et al. 2021, arXiv
2101.06983, adapted to CoCa). The first pass computes embeddings without graph, then the gradient of
the contrastive loss with respect to each embedding. The second pass runs the whole model with
graph. Only two (B, E) tensors are kept between the passes, and the multimodal decoder runs once.

Dimensions: B pairs of this rank, E embedding.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.data.batch import Batch
from coca.model.losses.collectives import all_reduce_sum, world_size
from coca.train.blocks import batch_norms, compilation
from coca.train.distributed.parallel import ParallelModel
from coca.train.objective import ChunkedLoss, Embedded, Losses, Objective, add_losses

# Reports of non-finite steps: cause, rank and samples.


@dataclass(frozen=True)
class NonFiniteReport:
    """Report of one rank about a non-finite step."""

    cause: str
    """The non-finite loss or gradient."""
    culprits: bool
    """Whether this rank's images are not finite."""
    first: int
    """Global index of the rank's first sample."""
    last: int
    """Global index of the rank's last sample."""


def nonfinite_report(
    metrics: Mapping[str, float], gradients: Iterable[tuple[str, Tensor]], batch: Batch
) -> NonFiniteReport:
    """Build this rank's report of a step."""
    return NonFiniteReport(
        cause=_cause(metrics, gradients),
        culprits=not bool(batch.images.isfinite().all()),
        first=batch.start,
        last=batch.start + len(batch.keys) - 1,
    )


def cause_of(reports: Sequence[NonFiniteReport]) -> str:
    """Find the non-finite loss or gradient in the reports of all ranks, in rank order.

    The rank with a shard of a gradient reports its name.
    """
    named = [report.cause for report in reports if report.cause != _GRADIENT_NORM]
    return named[0] if named else _GRADIENT_NORM


def location_of(reports: Sequence[NonFiniteReport]) -> str:
    """Describe the samples of the step, and the ranks if only some have non-finite images."""
    culprits = [rank for rank, report in enumerate(reports) if report.culprits]
    named = 0 < len(culprits) < len(reports)
    shown = [reports[rank] for rank in culprits] if named else reports
    ranks = f"rank {', '.join(map(str, culprits))}, " if named else ""
    return f"{ranks}samples {shown[0].first} to {shown[-1].last}"


_GRADIENT_NORM = "the gradient norm"


def _cause(metrics: Mapping[str, float], gradients: Iterable[tuple[str, Tensor]]) -> str:
    for name, value in metrics.items():
        if name not in ("loss", "grad_norm") and not math.isfinite(value):
            return name
    if not math.isfinite(metrics["loss"]):
        return "the loss"
    for name, gradient in gradients:
        if not bool(gradient.isfinite().all()):
            return f"the gradient of {name}"
    return _GRADIENT_NORM


# Forward and backward pass of one training step, with gradient caching for micro-batches.


ModelT = TypeVar("ModelT", bound=nn.Module)

RandomState: TypeAlias = tuple[Tensor, Tensor | None]
"""State of the CPU generator, and of the accelerator's if there is one."""


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
        if not isinstance(objective, ChunkedLoss):
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


def _backward_in_parts(
    model: ParallelModel[ModelT],
    objective: ChunkedLoss[ModelT],
    batch: Batch,
    parts: Sequence[Batch],
    autocast: Callable[[], AbstractContextManager[None]],
) -> Losses:
    states, firsts = _first_pass(model, objective, parts, autocast)
    totals = objective.totals(model.model, batch)
    losses, gradients = _match(objective, firsts) if firsts else (None, [None] * len(parts))
    for number, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
        ready = part.to(model.device)
        if firsts:
            # Both passes need equal random numbers, or the gradient belongs to other embeddings.
            _restore_random(states[number], model.device)
        run = partial(objective.run_part, batch=ready, totals=totals, gradient=gradient)
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


def _mean_over_ranks(losses: Losses) -> Losses:
    """Average the losses over all ranks, in one collective."""
    values = torch.stack([losses.total.detach(), *losses.parts.values()])
    total, *metrics = (all_reduce_sum(values) / world_size()).unbind()
    return Losses(total, dict(zip(losses.parts, metrics, strict=True)))


def _random_state(device: torch.device) -> RandomState:
    """Return the state of torch's global generators, used by layers such as patch dropout."""
    accelerator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), accelerator


def _restore_random(state: RandomState, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
