from pathlib import Path

import pytest

from coca.inference import loading
from coca.inference.predictor import Predictor
from tiny_data import image_bytes
from tiny_model import write_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def predictor(folder: Path) -> Predictor:
    return loading.load(folder, device="cpu")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("images")
    for number in range(5):
        (home / f"{number}.png").write_bytes(image_bytes(number))
    return sorted(home.iterdir())
