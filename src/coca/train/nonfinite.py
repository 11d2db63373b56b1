"""Why a step was skipped: what was not finite, where, on which rank and for which samples."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from coca.data.sample import Batch


@dataclass(frozen=True)
class NonFiniteReport:
    """What one rank can tell about a step that is not finite."""

    cause: str
    """What it was, as far as all ranks see it alike, such as a loss of the global batch."""
    culprits: bool
    """Whether this rank's own images are not finite."""
    first: int
    """Global index of its first sample."""
    last: int
    """And of its last."""


def nonfinite_report(
    figures: Mapping[str, float], gradients: Iterable[tuple[str, Tensor]], batch: Batch
) -> NonFiniteReport:
    """Look at one rank's part of a step.

    Args:
        figures: The step's, with `loss` and `grad_norm`.
        gradients: This rank's, with the names of their parameters.
        batch: This rank's.
    """
    return NonFiniteReport(
        cause=_cause(figures, gradients),
        culprits=not bool(batch.images.isfinite().all()),
        first=batch.start,
        last=batch.start + len(batch.keys) - 1,
    )


def cause_of(reports: Sequence[NonFiniteReport]) -> str:
    """What was not finite, from the clues of all ranks in their order.

    A gradient that is cut into pieces is named by the rank that has the piece.
    """
    named = [
        nonfinite_report.cause for nonfinite_report in reports if nonfinite_report.cause != _LENGTH
    ]
    return named[0] if named else _LENGTH


def place_of(reports: Sequence[NonFiniteReport]) -> str:
    """Which samples it concerns, and which ranks if some alone have bad images."""
    culprits = [rank for rank, nonfinite_report in enumerate(reports) if nonfinite_report.culprits]
    named = 0 < len(culprits) < len(reports)
    shown = [reports[rank] for rank in culprits] if named else reports
    ranks = f"rank {', '.join(map(str, culprits))}, " if named else ""
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
