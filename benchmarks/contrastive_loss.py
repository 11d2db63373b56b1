"""Time, memory and error of the blockwise contrastive losses against the plain N x N losses.

    python benchmarks/contrastive_loss.py
    python benchmarks/contrastive_loss.py --loss sigmoid --pairs 4096

A run computes value and gradient in one process. The contestant `difference` computes both losses
and compares the gradients. Memory is the increase of the peak by the loss, embeddings excluded.
"""

import argparse
import time
from collections.abc import Callable

import torch
from options import run
from side_by_side import Rounds, emit, figure, in_turn, peak_bytes, ratio, table, write_report
from torch import Tensor
from torch.nn import functional as F

from coca.model.losses.contrastive_loss import (
    ContrastiveOutput,
    contrastive_loss,
    contrastive_loss_plain,
    sigmoid_loss,
    sigmoid_loss_plain,
)

Loss = tuple[Callable[..., Tensor], Callable[..., ContrastiveOutput], tuple[float, ...]]
"""The plain loss, the blockwise loss, and the initial values of its learned scalars."""

LOSSES: dict[str, Loss] = {
    "softmax": (contrastive_loss_plain, contrastive_loss, (1 / 0.07,)),
    "sigmoid": (sigmoid_loss_plain, sigmoid_loss, (10.0, -10.0)),
}


def leaves(pairs: int, width: int, numbers: tuple[float, ...]) -> list[Tensor]:
    """Generate unit vectors of similar pairs, and the learned scale and bias."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(pairs, width, generator=generator)
    texts = images + torch.randn(pairs, width, generator=generator)
    vectors = [F.normalize(side, dim=1) for side in (images, texts)]
    return [leaf.requires_grad_() for leaf in (*vectors, *map(torch.tensor, numbers))]


def compute(loss: str, rows: int | None, own: list[Tensor]) -> tuple[float, list[Tensor]]:
    """Compute value and gradients; `rows` None selects the plain loss."""
    plain, blocked, _ = LOSSES[loss]
    total = plain(*own) if rows is None else blocked(*own, block_rows=rows).loss
    return total.item(), list(torch.autograd.grad(total, own))


QUICK = {"pairs": 4096, "rounds": 3}
UNITS = {"seconds": "s", "bytes": "bytes"}


def contestant(arguments: argparse.Namespace) -> None:
    own = leaves(arguments.pairs, arguments.width, LOSSES[arguments.loss][2])
    if arguments.contestant == "difference":
        _, expected = compute(arguments.loss, None, own)
        _, found = compute(arguments.loss, arguments.rows[0], own)
        apart = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
        emit({"gradient": max(apart)})
        return
    rows = None if arguments.contestant == "plain" else int(arguments.contestant)
    few = [leaf[:64].detach().requires_grad_() if leaf.ndim else leaf for leaf in own]
    compute(arguments.loss, rows, few)
    before = peak_bytes()
    start = time.perf_counter()
    value, _ = compute(arguments.loss, rows, own)
    seconds = time.perf_counter() - start
    emit({"seconds": seconds, "bytes": peak_bytes() - before, "loss": value})


def referee(arguments: argparse.Namespace) -> Rounds:
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("loss", "pairs", "width")]
    shared += ["--rows", *map(str, arguments.rows)]
    names = ["plain", *map(str, arguments.rows)]
    rounds = in_turn(
        {name: [f"--contestant={name}", *shared] for name in names}, rounds=arguments.rounds
    )
    (apart,) = in_turn({"difference": ["--contestant=difference", *shared]}, rounds=1)["difference"]
    write_report(
        arguments,
        rounds,
        f"contrastive_{arguments.loss}",
        f"Contrastive loss ({arguments.loss}), {arguments.pairs:,} pairs of {arguments.width}",
        results(rounds),
        f"Relative difference of the gradients by images, captions and scalars: at most "
        f"{apart['gradient']:.1e} (plain and {arguments.rows[0]} rows).",
        packages=("torch",),
    )
    return rounds


def results(rounds: Rounds) -> str:
    plain, rows = rounds["plain"], []
    for name, own in rounds.items():
        label = "plain, N x N" if name == "plain" else f"blocks of {name} rows"
        rows.append(
            [
                label,
                figure(own, "seconds").shown(),
                ratio(own, plain, "seconds").shown(),
                f"{figure(own, 'bytes').median / 2**30:.2f}",
                f"{abs(own[0]['loss'] / plain[0]['loss'] - 1):.1e}",
            ]
        )
    return table(["", "seconds", "ratio", "added GiB", "loss, relative difference"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=list(LOSSES), default="softmax")
    parser.add_argument("--pairs", type=int, default=16_384, help="N (default 16384)")
    parser.add_argument("--width", type=int, default=512, help="of an embedding (default 512)")
    parser.add_argument("--rows", type=int, nargs="+", default=[512], help="of a block")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
