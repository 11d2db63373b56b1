from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coca.core.progress import Bar, progress_bar, progress_maker, show_progress, silent

Captured = pytest.CaptureFixture[str]


def test_a_bar_prints_nothing_unless_progress_is_shown(capsys: Captured) -> None:
    with progress_bar("embedding", None) as bar:
        bar.advance()
        bar.advance(3, loss=2.31, stage="images")
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_within_its_block_only(capsys: Captured) -> None:
    with show_progress(), progress_bar("embedding", 3) as bar:
        bar.advance(3)
    assert capsys.readouterr().err.endswith("\rembedding 3/3\n")
    with progress_bar("embedding", 3) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_a_bar_within_a_bar_is_silent_unless_it_is_shown_again() -> None:
    titles: list[str] = []

    @contextmanager
    def display(title: str, total: int | None) -> Iterator[Bar]:
        titles.append(title)
        with silent(title, total) as bar:
            yield bar

    with show_progress(display):
        with progress_bar("outer", 2), progress_bar("batch", 2):
            pass
        with progress_bar("next", 1), show_progress(progress_maker()), progress_bar("own", 1):
            pass
        with pytest.raises(ValueError, match="odd"), progress_bar("failed", 1):
            raise ValueError("odd")
        with progress_bar("last", 1):
            pass
    assert titles == ["outer", "next", "own", "failed", "last"]
    assert progress_maker() is silent
