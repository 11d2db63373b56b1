import json
from pathlib import Path
from typing import Any

import pytest

from tiny_cli import RunJson


@pytest.fixture
def filled(run_json: RunJson, model: str, images: list[str]) -> Any:
    """A collection of three images in the default collection; the first has words of its own."""
    words = {"caption": "a red [car]", "year": 2022}
    Path(images[0]).with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")
    return run_json("index", "photos", "-m", model)
