import os
from pathlib import Path
from typing import Any

import pytest

from coca.cli.options.search_options import FilterOptions, from_here


def test_wishes_are_joined_so_that_none_reaches_into_another() -> None:
    stored: Any = None  # read for tags only
    assert FilterOptions().expression(stored) == ""
    wish = "width > 1 or width < 0"
    assert FilterOptions(filter=wish).expression(stored) == wish
    both = FilterOptions(filter=wish, during="2021").expression(stored)
    assert both.startswith(f"({wish}) and (")


def test_a_path_is_relative_only_if_it_is_below_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_here(f"{tmp_path}{os.sep}a.jpg") == "a.jpg"
    for elsewhere in (f"{tmp_path}-other{os.sep}a.mp4#t=1.5", "https://host/a.jpg"):
        assert from_here(elsewhere) == elsewhere
