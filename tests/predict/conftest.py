from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from coca.predict.torch_predictor import TorchPredictor

WITHOUT_TORCH = {"test_prompts.py", "test_short_vectors.py", "test_unreadable.py"}
"""Tests that run where torch is not installed; the others are not collected there."""
collect_ignore = [
    path.name
    for path in Path(__file__).parent.glob("test_*.py")
    if path.name not in WITHOUT_TORCH and find_spec("torch") is None
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_model import write_model

    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def predictor(folder: Path) -> "TorchPredictor":
    from coca.predict.torch_loading import load_coca

    return load_coca(folder, device="cpu")
