"""A service whose model hears: uploads, queries, embeddings, thumbnails and originals of audio."""

import io
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("av", reason="needs the extra `audio`")

from fastapi.testclient import TestClient
from PIL import Image

import coca
from coca.inference.predictor import Predictor
from coca.server.app import create_app
from coca.server.service import open_service
from coca.server.settings import ServerSettings
from server_process import data_uri
from tiny_audio import tone, wav, write_hearing_model
from tiny_collection import write_collections
from tiny_data import image_bytes

CLIP = wav(tone(3_000, 1.0))


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    predictor = coca.load(write_hearing_model(tmp_path_factory.mktemp("model")), device="cpu")
    assert isinstance(predictor, Predictor)
    return predictor


@pytest.fixture(scope="module")
def client(hearing: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("served")
    uri = write_collections(root, hearing, {"pictures": [image_bytes(0)]})
    settings = ServerSettings(thumbnails=root / "thumbnails", uploads=root / "uploads")
    with open_service(uri, ["pictures"], settings, model=hearing) as service:
        app = create_app(service, service.settings)
        with TestClient(app, base_url="http://localhost") as opened:
            yield opened


def test_an_uploaded_clip_is_found_shown_and_returned(client: TestClient) -> None:
    added = client.post("/v1/items", json={"image": data_uri(CLIP, "audio/wav"), "name": "a.wav"})
    assert added.status_code == 201
    item = added.json()
    found = client.post("/v1/search", json={"image": data_uri(CLIP, "audio/wav"), "limit": 1})
    assert found.json()["hits"][0]["id"] == item["id"]
    original = client.get(item["original"])
    assert (original.headers["content-type"], original.content) == ("audio/wav", CLIP)
    small = client.get(item["thumbnail"])
    with Image.open(io.BytesIO(small.content)) as drawn:
        assert (small.headers["content-type"], drawn.size) == ("image/jpeg", (100, 128))


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"audio": data_uri(CLIP, "audio/wav")}]},
        {"input": data_uri(CLIP, "audio/wav")},
    ],
)
def test_embeddings_of_audio_are_those_of_the_model(
    client: TestClient, hearing: Predictor, body: dict[str, object]
) -> None:
    answer = client.post("/v1/embeddings", json=body)
    given = np.array(answer.json()["data"][0]["embedding"], np.float32)
    assert np.abs(given - hearing.embed_images([CLIP])[0]).max() < 1e-4


def test_damaged_and_doubled_audio_is_one_sentence(client: TestClient) -> None:
    broken = data_uri(b"ID3" + bytes(900), "audio/mpeg")
    answer = client.post("/v1/search", json={"image": broken})
    assert answer.status_code == 422
    assert "damaged" in answer.json()["error"]["message"]
    both = {"input": [{"audio": data_uri(CLIP, "audio/wav"), "text": "a tone"}]}
    answer = client.post("/v1/embeddings", json=both)
    assert answer.status_code == 400
    assert "got several" in answer.json()["error"]["message"]
