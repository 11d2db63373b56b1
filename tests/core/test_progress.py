import pytest

from coca.core.progress import ProgressMaker, silent


def test_the_silent_bar_takes_steps_and_figures_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    maker: ProgressMaker = silent
    with maker("embedding", None) as bar:
        bar.advance()
        bar.advance(3, loss=2.31, stage="images")
    assert capsys.readouterr() == ("", "")
