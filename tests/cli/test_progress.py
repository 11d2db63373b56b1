import io

import pytest
from rich.console import Console

from coca.cli import progress
from coca.cli.progress import LiveBars, lines

Captured = pytest.CaptureFixture[str]


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_every_ten_seconds_reports_rate_time_left_and_figures(
    clock: Clock, capsys: Captured
) -> None:
    with lines("training", 2000) as bar:
        for _ in range(40):
            clock.now_s += 0.5
            bar.advance(5, loss=2.3111, pairs_per_s=812.4)
    written = capsys.readouterr().err.splitlines()
    assert written == [
        "training: 100/2,000 (5 %), 10/s, 3:10 left, loss 2.31, pairs/s 812",
        "training: 200/2,000 (10 %), 10/s, 3:00 left, loss 2.31, pairs/s 812",
    ]


def test_the_last_line_has_what_came_after_the_one_before(clock: Clock, capsys: Captured) -> None:
    with lines("short", 5) as bar:
        bar.advance(5)
    with lines("reading", 7) as bar:
        clock.now_s += 10
        bar.advance(5)
        clock.now_s += 4
        bar.advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 5/7 (71 %), 2 s each, 0:04 left",
        "reading: 7/7 (100 %), 2 s each, 0:14",
    ]


@pytest.mark.parametrize(
    ("total", "done", "line"),
    [(None, 3, "reading: 3, 2,400 s each, 2:00:01, bad 0"), (0, 0, "reading: 0/0 (100 %), bad 0")],
)
def test_work_of_unknown_or_no_length_reports_what_is_done(
    clock: Clock, capsys: Captured, total: int | None, done: int, line: str
) -> None:
    with lines("reading", total) as bar:
        clock.now_s += 7201
        bar.advance(done, bad=0)
    assert capsys.readouterr().err.splitlines()[0] == line


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal is sent."""
    stream = io.StringIO()
    monkeypatch.setattr(
        progress,
        "Console",
        lambda **_: Console(file=stream, force_terminal=True, width=120, color_system=None),
    )
    return stream


def test_a_bar_shows_steps_speed_and_metrics(screen: io.StringIO) -> None:
    with LiveBars()("training [x]", 20) as bar:
        for _ in range(20):
            bar.advance(loss=0.5)
    shown = screen.getvalue()
    assert "training [x]" in shown
    assert "20/20" in shown
    assert "loss 0.5" in shown


def test_bars_within_one_another_share_a_display(screen: io.StringIO) -> None:
    bars = LiveBars()
    with bars("outer", 2) as outer, bars("inner", None) as inner:
        inner.advance(5)
        outer.advance()
    with bars("later", 1) as later:
        later.advance()
    shown = screen.getvalue()
    assert all(title in shown for title in ("outer", "inner", "later"))
    assert "outer" not in shown[shown.rindex("later") :]


def test_a_bar_ends_cleanly_when_work_fails(screen: io.StringIO) -> None:
    bars = LiveBars()
    with pytest.raises(ValueError, match="odd"), bars("work", 2):
        raise ValueError("odd")
    # The cursor is shown again.
    assert screen.getvalue().rstrip().endswith("\x1b[?25h")
