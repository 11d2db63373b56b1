"""Collectives over the ranks of a run; without a process group, a run has one rank.

Dimensions: B rows of this rank, N rows of all ranks, D numbers per row.
"""

from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Return the number of ranks of `group`; None: the default group, or 1 if there is none."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank_of(group: dist.ProcessGroup | None = None) -> int:
    """Return the rank of this process in `group`, from 0."""
    return dist.get_rank(group) if world_size(group) > 1 else 0


def local_shard(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a DTensor, any other tensor as it is; a view without gradient."""
    # Not by its class, whose import takes a second that models without ranks do not need.
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()


def all_reduce_sum(
    numbers: Float[Tensor, "*shape"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, "*shape"]:
    """Sum a tensor over all ranks, without gradient."""
    total = numbers.detach().clone()
    if world_size(group) > 1:
        dist.all_reduce(total, group=group)
    return total


def all_reduce_logsumexp(
    numbers: Float[Tensor, "*shape"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, "*shape"]:
    """Compute the elementwise log-sum-exp of a tensor over all ranks, without gradient."""
    if world_size(group) == 1:
        return numbers
    largest = numbers.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    return all_reduce_sum((numbers - largest).exp(), group).log() + largest


def all_gather(
    rows: Float[Tensor, "B D"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, "N D"]:
    """Gather the rows of all ranks, in rank order; each rank must pass the same number of rows.

    It has no gradient: `reduce_scatter` returns the gradient of the result to the ranks.
    """
    ranks = world_size(group)
    if ranks == 1:
        return rows
    gathered = rows.new_empty(ranks * len(rows), rows.shape[1])
    dist.all_gather(list(gathered.chunk(ranks)), rows.contiguous(), group=group)
    return gathered


def reduce_scatter(
    rows: Float[Tensor, "N D"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, "B D"]:
    """Sum gathered rows over all ranks and return this rank's own rows."""
    ranks = world_size(group)
    if ranks == 1:
        return rows
    own = rows.new_empty(len(rows) // ranks, rows.shape[1])
    dist.reduce_scatter(own, list(rows.chunk(ranks)), group=group)
    return own
