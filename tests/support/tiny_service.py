"""Fixtures of tests of the service: a tiny model, and the images of its first collection."""

import pytest

import coca
from coca.inference.predictor import Predictor
from tiny_data import image_bytes
from tiny_model import write_model


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return coca.load(write_model(tmp_path_factory.mktemp("model") / "model"), device="cpu")


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """The images of the collection `pictures`."""
    return [image_bytes(number, side=24) for number in range(6)]
