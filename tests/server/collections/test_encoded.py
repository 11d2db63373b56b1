"""A service over a collection of smaller vectors."""

from pathlib import Path

from fastapi.testclient import TestClient

from coca.inference.predictor import Predictor
from coca.search.vector_encoding import VectorEncoding
from coca.server.app import create_app
from coca.server.service import open_service
from coca.server.settings import ServerSettings
from coca.workflows.collections.index import index_images


def test_smaller_vectors_are_searched_by_text_and_by_item(
    predictor: Predictor, images: list[bytes], settings: ServerSettings, tmp_path: Path
) -> None:
    photos, uri = tmp_path / "photos", str(tmp_path / "small.db")
    photos.mkdir()
    for number, data in enumerate(images):
        (photos / f"{number}.png").write_bytes(data)
    form = VectorEncoding(dimensions=4, projection="pca")
    index_images([photos], predictor, uri=uri, captions=False, encoding=form)
    with open_service(uri, ["pictures"], settings, model=predictor) as service:
        app = create_app(service, settings)
        with TestClient(app, base_url="http://localhost") as client:
            found = client.post("/v1/search", json={"text": "a cat", "limit": 6}).json()["hits"]
            assert len(found) == len(images)
            (listed,) = client.get("/v1/collections").json()["collections"]
            stored = {"dimensions": 4, "projection": "pca", "precision": "float32"}
            assert listed["encoding"] == stored
            body = {"id": found[0]["id"], "limit": 6}
            similar = client.post("/v1/search", json=body)
            assert similar.status_code == 200, similar.text
