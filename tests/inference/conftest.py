from pathlib import Path

import pytest

from coca.inference import loading
from coca.inference.predictor import Predictor
from tiny_model import write_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def predictor(folder: Path) -> Predictor:
    return loading.load(folder, device="cpu")
