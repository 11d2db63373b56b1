"""A service over two real collections on Milvus Lite, with a tiny model."""

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from fastapi.testclient import TestClient

import coca
from coca.inference.predictor import Predictor
from coca.server.app import create_app
from coca.server.service import Service, open_service
from coca.server.settings import ServerSettings
from coca.workflows.collections.index import index_images
from tiny_data import image_bytes
from tiny_model import write_model


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return coca.load(write_model(tmp_path_factory.mktemp("model") / "model"), device="cpu")


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """The images of the collection `pictures`."""
    return [image_bytes(number, side=24) for number in range(6)]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor, images: list[bytes]) -> str:
    """A Milvus Lite folder with a collection of six images, and one with a single other image."""
    root = tmp_path_factory.mktemp("served")
    for folder, chosen in (("photos", images), ("others", [image_bytes(100)])):
        (root / folder).mkdir()
        for number, data in enumerate(chosen):
            (root / folder / f"{number}.png").write_bytes(data)
            (root / folder / f"{number}.txt").write_text(f"a red car number {number}")
            (root / folder / f"{number}.json").write_text(
                f'{{"tags": ["t{number % 2}"], "time": "202{number}-05-31", "year": {number}}}'
            )
    place = str(root / "pictures.db")
    index_images([root / "photos"], predictor, uri=place)
    index_images([root / "others"], predictor, uri=place, collection="others")
    return place


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServerSettings:
    root = tmp_path_factory.mktemp("folders")
    return ServerSettings(thumbnails=root / "thumbnails", uploads=root / "uploads")


@pytest.fixture(scope="module")
def service(uri: str, predictor: Predictor, settings: ServerSettings) -> Iterator[Service]:
    with open_service(uri, ["pictures", "others"], settings, model=predictor) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    app = create_app(service, service.settings)
    with TestClient(app, base_url="http://localhost") as opened:
        yield opened
