"""Routes of OpenAI."""

import base64
import sys

import numpy as np
import pytest
from fastapi.testclient import TestClient

from coca.predict.torch_predictor import TorchPredictor
from coca.server.routes.tenants import Tenant
from server_process import data_uri


def vectors(client: TestClient, **body: object) -> np.ndarray:
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]], np.float32)


def test_texts_have_the_vectors_of_the_model(client: TestClient, predictor: TorchPredictor) -> None:
    texts = ["a red car", "two dogs play"]
    found = vectors(client, input=texts, model="any")
    assert np.allclose(found, predictor.embed_texts(texts), atol=1e-5)
    assert np.allclose(vectors(client, input=texts[0])[0], found[0], atol=1e-5)
    body = {"input": texts[0], "encoding_format": "base64"}
    (one,) = client.post("/v1/embeddings", json=body).json()["data"]
    assert np.allclose(
        np.frombuffer(base64.b64decode(one["embedding"]), "<f4"), found[0], atol=1e-5
    )


def test_images_have_the_vectors_of_the_model(
    client: TestClient, predictor: TorchPredictor, images: list[bytes]
) -> None:
    # As a data URI, and as Jina's object.
    inputs = [data_uri(images[0]), {"image": data_uri(images[1])}]
    assert np.allclose(vectors(client, input=inputs), predictor.embed_images(images[:2]), atol=1e-5)


def test_fewer_dimensions_have_length_1(client: TestClient) -> None:
    whole, short = vectors(client, input="a cat")[0], vectors(client, input="a cat", dimensions=5)
    assert np.allclose(short[0], whole[:5] / np.linalg.norm(whole[:5]), atol=1e-5)
    for dimensions, status in ((24, 200), (24.0, 200), (25, 400), (0, 422), (True, 422)):
        body = {"input": "a cat", "dimensions": dimensions}
        assert client.post("/v1/embeddings", json=body).status_code == status
    schema = client.get("/openapi.json").json()["components"]["schemas"]["EmbeddingRequest"]
    assert schema["properties"]["dimensions"]["anyOf"][0]["maximum"] == 24


def test_null_is_the_default_of_a_field(client: TestClient) -> None:
    nulls = dict.fromkeys(("model", "encoding_format", "dimensions", "user"))
    found = vectors(client, input=["a cat", ""], **nulls)
    assert np.allclose(found[0], vectors(client, input="a cat")[0], atol=1e-6)
    assert np.linalg.norm(found[1]) == pytest.approx(1, abs=1e-5)


def test_token_ids_without_their_encoding_are_an_error_with_a_remedy(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    for ids in ([1, 2], [[1, 2], [3]]):
        answer = client.post("/v1/embeddings", json={"input": ids})
        assert answer.status_code == 400
        assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]


@pytest.mark.parametrize("element", [{}, "", 1])
def test_a_long_list_of_inputs_is_one_fault(client: TestClient, element: object) -> None:
    answer = client.post("/v1/embeddings", json={"input": [element] * 20_000})
    assert answer.status_code == 422
    message = answer.json()["error"]["message"]
    assert "at most" in message
    assert len(message) < 500


def test_work_for_the_model_is_charged(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    charged: list[dict[str, int]] = []
    monkeypatch.setattr(Tenant, "charge", lambda _, **counts: charged.append(counts))
    body = {"input": ["two dogs play", "a red car", "a cat"]}
    assert client.post("/v1/embeddings", json=body).status_code == 200
    assert charged == [{"texts": 3, "images": 0}]


def test_an_input_is_a_text_or_an_image(client: TestClient) -> None:
    refused = client.post("/v1/embeddings", json={"input": [{"title": "a dog"}]})
    assert refused.status_code == 400
    assert "must be a text or an image, got none" in refused.text
