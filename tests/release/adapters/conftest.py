from pathlib import Path

import pytest

from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from tiny_data import image_bytes
from tiny_model import write_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def predictor(folder: Path) -> TorchPredictor:
    return load_coca(folder, device="cpu")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("images")
    for number in range(5):
        (home / f"{number}.png").write_bytes(image_bytes(number))
    return sorted(home.iterdir())
