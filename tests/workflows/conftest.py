from pathlib import Path

import pytest

from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from tiny_model import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> TorchPredictor:
    """A model that fills collections; tests only read it."""
    return load_coca(write_model(tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "pictures.db")
