"""Forward and backward pass of one step, at once or in micro-batches, and losses of evaluation."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

from coca.core.errors import ConfigError
from coca.data.batch import Batch
from coca.model.losses.collectives import all_reduce_sum, world_size
from coca.train.blocks import batch_norms, compilation
from coca.train.distributed.parallel import ParallelModel
from coca.train.gradient_cache import ChunkedLoss, backward_in_parts
from coca.train.losses import Losses
from coca.train.objective import Objective

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
            backward_in_parts(model, objective, batch, batch.split(micro_batch), autocast)
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
