"""Several processes that compute one thing together, and what they compute."""

import multiprocessing.context
import multiprocessing.forkserver
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from coca.data.batch import Batch
from coca.model.losses.contrastive_loss import contrastive_loss, sigmoid_loss
from tiny import caption

Results = dict[str, Tensor]
T = TypeVar("T")

HANGING_S = 200.0
"""Seconds after which processes that wait for each other are ended."""


def on_ranks(
    count: int,
    folder: Path,
    function: Callable[[], T],
    *,
    backend: str = "gloo",
    limit_s: float = HANGING_S,
) -> list[T]:
    """What each of `count` processes gives; `function` must be in a module like this one.

    It may give tensors, numbers and strings.
    """
    ranks = start_ranks(count, folder, function, backend=backend)
    for process in ranks:
        process.join(limit_s)
        process.kill()
    assert not any(process.exitcode for process in ranks), "a rank failed; its words are above"
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def start_ranks(
    count: int, folder: Path, function: Callable[[], object], *, backend: str = "gloo"
) -> list[multiprocessing.context.ForkServerProcess]:
    """The processes of `on_ranks`, at work; each leaves what it gives in `folder`."""
    meeting = folder / f"meeting-{uuid.uuid4().hex[:8]}"
    return [
        start_process(_run_rank, rank, count, str(folder), str(meeting), function, backend)
        for rank in range(count)
    ]


def start_fork_server() -> None:
    """Start the process that others are forked from, unless there is one already.

    It has torch in memory, since importing it takes seconds.
    """
    multiprocessing.set_forkserver_preload(["tiny_warm"])
    # The server does not get to know where this process finds its modules.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        multiprocessing.forkserver.ensure_running()


def start_process(
    function: Callable[..., None], *arguments: object
) -> multiprocessing.context.ForkServerProcess:
    """A process that is forked from a server with torch in memory."""
    start_fork_server()
    process = multiprocessing.get_context("forkserver").Process(target=function, args=arguments)
    process.start()
    return process


def run_unchecked(program: str) -> None:
    """Run a program in a process without the type checks of the tests; it must succeed."""
    process = start_process(exec, program, {})
    process.join(HANGING_S)
    assert process.exitcode == 0, "the program failed; its words are above"


def _run_rank(
    rank: int,
    count: int,
    folder: str,
    meeting: str,
    function: Callable[[], object],
    backend: str,
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=count
    )
    try:
        torch.save(function(), Path(folder) / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


def ragged_batch(pairs: int, *, seed: int = 5) -> Batch:
    """Captions of 1 to 10 words, and classes that some images lack."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 11, (pairs,), generator=generator).tolist()
    rows = [
        caption(*torch.randint(4, 50, (words,), generator=generator).tolist(), length=14)
        for words in lengths
    ]
    return Batch(
        images=torch.randn(pairs, 3, 16, 16, generator=generator),
        tokens=torch.tensor(rows),
        keys=tuple(f"sample-{row}" for row in range(pairs)),
        start=0,
        class_targets=torch.eye(4)[torch.arange(pairs) % 4, :3],
    )


def pairs_of_vectors(pairs: int) -> tuple[Tensor, Tensor]:
    """Unit vectors of images and captions that resemble each other."""
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, pairs, 6, generator=generator).unbind()
    return F.normalize(images, dim=1), F.normalize(images + noise, dim=1)


def plain_sigmoid_loss(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The sigmoid loss of one rank from the N x N matrix."""
    sign = 2 * torch.eye(len(images)) - 1
    return -F.logsigmoid(sign * (scale * images @ texts.T + bias)).sum() / len(images)


def own_losses(pairs: int) -> Results:
    """This rank's share of both pairwise losses."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    own = slice(rank * pairs // ranks, (rank + 1) * pairs // ranks)
    results = {}
    images, texts = (side[own].clone().requires_grad_() for side in pairs_of_vectors(pairs))
    scale, bias = (torch.tensor(number, requires_grad=True) for number in (10.0, -10.0))
    for name, contrast, numbers in (
        ("softmax", contrastive_loss(images, texts, scale, block_rows=3), (scale,)),
        ("sigmoid", sigmoid_loss(images, texts, scale, bias, block_rows=3), (scale, bias)),
    ):
        results[f"{name}/loss"] = contrast.loss.detach()
        results[f"{name}/image_to_text"] = contrast.image_to_text
        gradients = torch.autograd.grad(contrast.loss, (images, texts, *numbers))
        results |= {f"{name}/{number}": gradient for number, gradient in enumerate(gradients)}
    return results
