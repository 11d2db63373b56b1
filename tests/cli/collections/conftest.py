from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

Run = Callable[..., Result]
RunJson = Callable[..., Any]


@pytest.fixture
def filled(run_json: RunJson, model: str, images: list[str]) -> Any:
    return run_json("index", "photos", "-m", model)
