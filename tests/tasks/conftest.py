import pytest

from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from tiny_model import write_model


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> TorchPredictor:
    return load_coca(write_model(tmp_path_factory.mktemp("model")), device="cpu")
