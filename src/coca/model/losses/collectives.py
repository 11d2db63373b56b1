"""Sums and gathers over the ranks of a run; a process on its own is a run of one rank.

Dimensions: B rows of this rank, N rows of all ranks, D numbers a row.
"""

from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Ranks of `group`; None is the default group, or this process alone if there is none."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank_of(group: dist.ProcessGroup | None = None) -> int:
    """The place of this process among the ranks of `group`, from 0."""
    return dist.get_rank(group) if world_size(group) > 1 else 0


def all_reduce_sum(
    numbers: Float[Tensor, "*shape"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, "*shape"]:
    """The sum of what each rank gives; without gradient."""
    total = numbers.detach().clone()
    if world_size(group) > 1:
        dist.all_reduce(total, group=group)
    return total


def all_reduce_logsumexp(
    numbers: Float[Tensor, "*shape"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, "*shape"]:
    """The logarithm of the sum of exponentials of what each rank gives; without gradient."""
    if world_size(group) == 1:
        return numbers
    largest = numbers.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    return all_reduce_sum((numbers - largest).exp(), group).log() + largest


def all_gather(
    rows: Float[Tensor, "B D"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, "N D"]:
    """The rows of all ranks, in the order of the ranks; each must give the same number of rows.

    Without gradient: `reduce_scatter` takes the gradient of the result back to the ranks.
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
    """The sum over ranks of rows such as `all_gather` gave, but of this rank's own rows only."""
    ranks = world_size(group)
    if ranks == 1:
        return rows
    own = rows.new_empty(len(rows) // ranks, rows.shape[1])
    dist.reduce_scatter(own, list(rows.chunk(ranks)), group=group)
    return own
