"""Training metrics: means over logging intervals, skipped steps and throughput."""

import math
import time
from collections.abc import Mapping
from typing import Any


class MetricsLogger:
    """Averages the metrics of steps into rows; its state is saved in checkpoints, its clock is not.

    A step whose loss or gradient is not finite is counted and excluded from the means.
    """

    def __init__(self) -> None:
        self.bad_steps = 0
        """Number of skipped steps of the whole run."""
        self.bad_in_a_row = 0
        """Number of consecutive skipped steps up to now."""
        self.last_row: dict[str, float] = {}
        """The newest row; empty before the first."""
        self.begin_row()

    def start_clock(self) -> None:
        """Restart the measurement of throughput."""
        self._pairs, self._since = 0, time.monotonic()

    def begin_row(self) -> None:
        """Reset the means for the next row."""
        self._sums: dict[str, float] = {}
        self._good_steps = 0
        self.start_clock()

    def add(self, metrics: Mapping[str, float], *, pairs: int) -> bool:
        """Add the metrics of one step; return whether its loss and gradient are finite."""
        self._pairs += pairs
        good = math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
        if not good:
            self.bad_steps += 1
            self.bad_in_a_row += 1
            return False
        self.bad_in_a_row = 0
        self._good_steps += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return True

    @property
    def pairs_per_s(self) -> float:
        """Throughput since the last row, in pairs per second."""
        return self._pairs / max(time.monotonic() - self._since, 1e-9)

    def row(self, *, lr: float) -> dict[str, float]:
        """Compute the row: means, learning rate, number of skipped steps and throughput."""
        means = {name: total / self._good_steps for name, total in self._sums.items()}
        self.last_row = {
            **means,
            "lr": lr,
            "bad_steps": float(self.bad_steps),
            "pairs_per_s": self.pairs_per_s,
        }
        return self.last_row

    def state(self) -> dict[str, Any]:
        """Return the state without the clock, as JSON values."""
        return {
            "bad_steps": self.bad_steps,
            "bad_in_a_row": self.bad_in_a_row,
            "last_row": self.last_row,
            "sums": self._sums,
            "good_steps": self._good_steps,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self.bad_steps, self.bad_in_a_row = state["bad_steps"], state["bad_in_a_row"]
        self.last_row = dict(state["last_row"])
        self._sums, self._good_steps = dict(state["sums"]), state["good_steps"]
