import base64

import numpy as np
import pytest
from fastapi.testclient import TestClient

from coca.inference.predictor import Predictor
from server_client import data_uri


def vectors(client: TestClient, **body: object) -> np.ndarray:
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]], np.float32)


def test_texts_have_the_vectors_of_the_model(client: TestClient, predictor: Predictor) -> None:
    texts = ["a red car", "two dogs play"]
    found = vectors(client, input=texts, model="any")
    assert np.allclose(found, predictor.embed_texts(texts), atol=1e-5)
    assert np.allclose(vectors(client, input=texts[0])[0], found[0], atol=1e-5)


@pytest.mark.parametrize("form", ["infinity", "jina", "plain"])
def test_images_have_the_vectors_of_the_model(
    client: TestClient, predictor: Predictor, images: list[bytes], form: str
) -> None:
    uris = [data_uri(image) for image in images[:2]]
    body: dict[str, object] = {"input": uris}
    if form == "infinity":
        body["modality"] = "image"
    elif form == "jina":
        body["input"] = [{"image": uri} for uri in uris]
    assert np.allclose(vectors(client, **body), predictor.embed_images(images[:2]), atol=1e-5)


def test_base64_holds_the_same_numbers(client: TestClient) -> None:
    body = {"input": ["a red car"], "encoding_format": "base64"}
    (one,) = client.post("/v1/embeddings", json=body).json()["data"]
    found = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
    assert np.allclose(found, vectors(client, input=["a red car"])[0], atol=1e-6)


def test_fewer_dimensions_have_length_1(client: TestClient) -> None:
    whole, short = vectors(client, input="a cat")[0], vectors(client, input="a cat", dimensions=5)
    assert np.allclose(short[0], whole[:5] / np.linalg.norm(whole[:5]), atol=1e-5)
    answer = client.post("/v1/embeddings", json={"input": "a cat", "dimensions": 1_000})
    assert answer.status_code == 400


def test_documents_are_ranked_by_caption_likelihood(
    client: TestClient, predictor: Predictor, images: list[bytes]
) -> None:
    documents = [{"image": data_uri(image)} for image in images]
    body = {"query": "a red car", "documents": documents, "top_n": 3}
    results = client.post("/v1/rerank", json=body).json()["results"]
    scores = np.exp(predictor.score(images, ["a red car"], by_length=True)[:, 0])
    assert [one["index"] for one in results] == np.argsort(-scores)[:3].tolist()
    assert results[0]["relevance_score"] == pytest.approx(float(scores.max()), abs=1e-4)


def test_operators_see_health_and_metrics(client: TestClient) -> None:
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    assert 'coca_items{collection="pictures"} 6.0' in client.get("/metrics").text
    assert client.get("/v1/models").json()["data"][0]["object"] == "model"
