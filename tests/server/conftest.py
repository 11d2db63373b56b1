"""A service over two real collections in one file, with a tiny model."""

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from fastapi.testclient import TestClient

from coca.predict.torch_predictor import TorchPredictor
from coca.server.app import create_app
from coca.server.service import Service, open_service
from coca.server.settings import ServerSettings
from server_process import ServerProcess, serving
from tiny_collection import images, item_ids_of, predictor, write_collections
from tiny_data import image_bytes

__all__ = ["images", "predictor"]


@pytest.fixture(scope="module")
def uri(
    tmp_path_factory: pytest.TempPathFactory, predictor: TorchPredictor, images: list[bytes]
) -> str:
    """A file with a collection of six images, and one with a single other image."""
    root = tmp_path_factory.mktemp("served")
    return write_collections(root, predictor, {"pictures": images, "others": [image_bytes(100)]})


@pytest.fixture(scope="module")
def item_ids(uri: str) -> list[str]:
    """Ids of the items of `pictures`, in the order of `images`."""
    return item_ids_of(uri)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServerSettings:
    root = tmp_path_factory.mktemp("folders")
    return ServerSettings(thumbnails=root / "thumbnails", uploads=root / "uploads")


@pytest.fixture(scope="module")
def process(
    uri: str, predictor: TorchPredictor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A real `coca serve` over both collections."""
    names = ("--collection", "pictures", "--collection", "others")
    cache = tmp_path_factory.mktemp("cache")
    with serving("--uri", uri, *names, "--model", predictor.source, cache=cache) as running:
        yield running


@pytest.fixture(scope="module")
def service(uri: str, predictor: TorchPredictor, settings: ServerSettings) -> Iterator[Service]:
    with open_service(uri, ["pictures", "others"], settings, model=predictor) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    app = create_app(service, service.settings)
    with TestClient(app, base_url="http://localhost") as opened:
        yield opened
