"""Reports of non-finite steps: cause, rank and samples."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from coca.data.batch import Batch


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
