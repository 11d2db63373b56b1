from pathlib import Path

import pytest

from tiny_workflows import write_squares


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "pictures")
