import logging
from collections.abc import Sequence

import pytest

from coca.core.errors import ConfigError, DataError
from coca.core.progress import show_progress
from coca.predict.inputs import OnError, with_skips

BAD = {0, 5, 6, 20}


def check(position: int) -> None:
    if position in BAD:
        raise DataError(f"image {position} is damaged")


def run(count: int = 21, on_error: OnError = "skip") -> tuple[list[str], list[int]]:
    """The outcomes, and the positions whose work was done, with repetitions."""
    done: list[int] = []

    def work(positions: Sequence[int]) -> list[str]:
        for position in positions:
            check(position)
            done.append(position)
        return [f"good {position}" for position in positions]

    outcomes = with_skips(
        count,
        work,
        check=check,
        placeholder=str,
        on_error=on_error,
        batch_size=2,
        title="working",
    )
    return outcomes, done


def test_a_skipped_image_keeps_its_position(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        outcomes, done = run()
    assert outcomes == [f"image {it} is damaged" if it in BAD else f"good {it}" for it in range(21)]
    assert [record.message for record in caplog.records] == [
        f"image {it} is skipped: image {it} is damaged" for it in sorted(BAD)
    ]
    # Only the parts with unreadable images are repeated.
    assert done.count(10) == 1


def test_by_default_an_unreadable_image_is_an_error() -> None:
    with pytest.raises(DataError, match="image 0 is damaged"):
        run(on_error="raise")
    assert run(0) == ([], [])


def test_an_error_that_no_image_causes_is_raised() -> None:
    def fail(positions: Sequence[int]) -> list[str]:
        raise DataError("the text is damaged")

    with pytest.raises(DataError, match="the text is damaged"):
        with_skips(
            3,
            fail,
            check=lambda position: None,
            placeholder=str,
            on_error="skip",
            batch_size=2,
            title="working",
        )


def test_another_way_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be 'raise' or 'skip', got 'ignore'"):
        run(on_error="ignore")  # type: ignore[arg-type]


def test_progress_is_counted_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress():
        run()
    assert capsys.readouterr().err.endswith("\rworking 21/21\n")
