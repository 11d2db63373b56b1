"""Progress output: bars on a terminal, lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from coca.core.progress import Bar

LINE_EVERY_S = 10.0
REDRAW_EVERY_S = 0.1
"""Work may advance millions of times; redrawing each time would cost more than the work."""


class _Count:
    """Progress count with rate and remaining time."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.done = 0
        self.figures: dict[str, int | float | str] = {}
        self._started = time.monotonic()

    def add(self, count: int, figures: dict[str, int | float | str]) -> None:
        self.done += count
        self.figures |= figures

    def pace(self) -> str:
        """Format rate and remaining time, such as `12/s, 3:20 left`."""
        elapsed_s = time.monotonic() - self._started
        if not self.done or elapsed_s <= 0:
            return ""
        rate = self.done / elapsed_s
        parts = [f"{_short(rate)}/s" if rate >= 1 else f"{_short(1 / rate)} s each"]
        if self.total is not None and self.done < self.total:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        else:
            parts.append(_clock(elapsed_s))
        return ", ".join(parts)

    def shown_figures(self) -> str:
        """Format the metrics, such as `loss 2.31, pairs/s 812`."""
        return ", ".join(
            f"{name.replace('_per_', '/').replace('_', ' ')} {_short(value)}"
            for name, value in self.figures.items()
        )


class LiveBars:
    """Progress bars on a terminal; bars open at the same time share one display."""

    def __init__(self) -> None:
        self._display = Progress(
            SpinnerColumn(finished_text="+"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _PaceColumn(),
            console=Console(stderr=True),
        )
        self._open = 0

    @contextmanager
    def __call__(self, title: str, total: int | None) -> Iterator[Bar]:
        """Show a bar within the block."""
        count = _Count(total)
        task = self._display.add_task(title, total=total, count=count)
        bar = _LiveBar(self._display, task, count)
        if not self._open:
            self._display.start()
        self._open += 1
        try:
            yield bar
        finally:
            bar.redraw()
            self._display.stop_task(task)
            self._open -= 1
            if not self._open:
                self._display.stop()
                # The next display starts below the finished bars.
                for number in self._display.task_ids:
                    self._display.remove_task(number)


class _LiveBar:
    def __init__(self, display: Progress, task: TaskID, count: _Count) -> None:
        self._display = display
        self._task = task
        self._count = count
        self._drawn = 0.0

    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        self._count.add(count, figures)
        now = time.monotonic()
        if now - self._drawn >= REDRAW_EVERY_S:
            self._drawn = now
            self.redraw()

    def redraw(self) -> None:
        self._display.update(self._task, completed=self._count.done)


class _PaceColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        count: _Count = task.fields["count"]
        return Text(", ".join(filter(None, (count.pace(), count.shown_figures()))), style="cyan")


@contextmanager
def lines(title: str, total: int | None) -> Iterator[Bar]:
    """Write a line to stderr every ten seconds, and what came after the last line at the end."""
    bar = _Lines(title, total)
    yield bar
    if bar.is_behind:
        bar.write()


class _Lines:
    def __init__(self, title: str, total: int | None) -> None:
        self.is_behind = False
        """Whether a line was written, and more was done since."""
        self._title = title
        self._count = _Count(total)
        self._started_at = self._written_at = time.monotonic()

    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        self._count.add(count, figures)
        self.is_behind = self._written_at > self._started_at
        if time.monotonic() - self._written_at >= LINE_EVERY_S:
            self.write()

    def write(self) -> None:
        self._written_at = time.monotonic()
        self.is_behind = False
        done, total = self._count.done, self._count.total
        counted = f"{done:,}"
        if total is not None:
            counted += f"/{total:,} ({100 * done // total if total else 100} %)"
        parts = [counted, self._count.pace(), self._count.shown_figures()]
        sys.stderr.write(f"{self._title}: {', '.join(filter(None, parts))}\n")


def _short(value: int | float | str) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
