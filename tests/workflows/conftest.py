from pathlib import Path

import pytest

from coca.inference.loading import load
from coca.inference.predictor import Predictor
from tiny_model import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A model that fills collections; tests only read it."""
    return load(write_model(tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "pictures.db")
