from contextlib import AbstractContextManager

import pytest

from coca.core.progress import Bar, ProgressMaker, silent


def test_the_silent_bar_takes_steps_and_figures_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    maker: ProgressMaker = silent
    with maker("embedding", None) as bar:
        bar.advance()
        bar.advance(3, loss=2.31, stage="images")
    assert capsys.readouterr() == ("", "")


def test_an_error_passes_through_the_silent_bar() -> None:
    def work(progress: AbstractContextManager[Bar]) -> None:
        with progress:
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        work(silent("embedding", 10))
