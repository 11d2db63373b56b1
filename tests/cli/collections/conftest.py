from typing import Any

import pytest

from tiny_cli import RunJson


@pytest.fixture
def filled(run_json: RunJson, model: str, images: list[str]) -> Any:
    return run_json("index", "photos", "-m", model)
