"""Why a step was skipped: what was not finite, where, on which rank and for which samples."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from coca.data.sample import Batch


@dataclass(frozen=True)
class Clue:
    """What one rank can tell about a step that is not finite."""

    cause: str
    """What it was, as far as all ranks see it alike, such as a loss of the global batch."""
    guilty: bool
    """Whether this rank's own pictures are not finite."""
    first: int
    """Global index of its first sample."""
    last: int
    """And of its last."""


def clue(
    figures: Mapping[str, float], gradients: Iterable[tuple[str, Tensor]], batch: Batch
) -> Clue:
    """Look at one rank's part of a step.

    Args:
        figures: The step's, with `loss` and `grad_norm`.
        gradients: This rank's, with the names of their parameters.
        batch: This rank's.
    """
    return Clue(
        cause=_cause(figures, gradients),
        guilty=not bool(batch.images.isfinite().all()),
        first=batch.start,
        last=batch.start + len(batch.keys) - 1,
    )


def cause_of(clues: Sequence[Clue]) -> str:
    """What was not finite, from the clues of all ranks in their order.

    A gradient that is cut into pieces is named by the rank that has the piece.
    """
    named = [clue.cause for clue in clues if clue.cause != _LENGTH]
    return named[0] if named else _LENGTH


def place_of(clues: Sequence[Clue]) -> str:
    """Which samples it concerns, and which ranks if some alone have bad pictures."""
    guilty = [rank for rank, clue in enumerate(clues) if clue.guilty]
    named = 0 < len(guilty) < len(clues)
    shown = [clues[rank] for rank in guilty] if named else clues
    ranks = f"rank {', '.join(map(str, guilty))}, " if named else ""
    return f"{ranks}samples {shown[0].first} to {shown[-1].last}"


_LENGTH = "the length of the gradient"


def _cause(figures: Mapping[str, float], gradients: Iterable[tuple[str, Tensor]]) -> str:
    for name, value in figures.items():
        if name not in ("loss", "grad_norm") and not math.isfinite(value):
            return name
    if not math.isfinite(figures["loss"]):
        return "the loss"
    for name, gradient in gradients:
        if not bool(gradient.isfinite().all()):
            return f"the gradient of {name}"
    return _LENGTH
