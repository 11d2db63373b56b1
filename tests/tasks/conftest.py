import pytest

from coca.inference import loading
from coca.inference.predictor import Predictor
from tiny_model import write_model


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return loading.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")
