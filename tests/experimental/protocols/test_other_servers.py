"""Routes of Infinity, Cohere's second version and KServe."""

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from coca.inference.predictor import Predictor
from coca.server.routes.tenants import Tenant
from server_process import data_uri

TEXTS = ["two dogs play", "a red car", "a cat"]


def test_infinity_embeds_by_modality(
    client: TestClient, predictor: Predictor, images: list[bytes]
) -> None:
    body = {"input": [data_uri(image) for image in images[:2]], "modality": "image"}
    rows = client.post("/embeddings", json=body).json()["data"]
    expected = predictor.embed_images(images[:2])
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
    rows = client.post("/embeddings", json={"input": TEXTS, "modality": "text"}).json()["data"]
    expected = predictor.embed_texts(TEXTS)
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
    assert client.get("/models").json() == client.get("/v1/models").json()


def test_health_is_reported(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": TEXTS}),
        ("/rerank", {"query": "a", "texts": TEXTS[:2]}),
        ("/rerank", {"query": "a", "documents": TEXTS[:2]}),
        ("/v2/rerank", {"query": "a", "documents": TEXTS[:2]}),
        ("/embeddings", {"input": TEXTS}),
    ],
)
def test_work_for_the_model_is_charged(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    charged: list[dict[str, int]] = []
    monkeypatch.setattr(Tenant, "charge", lambda _, **counts: charged.append(counts))
    assert client.post(path, json=body).status_code == 200
    assert charged == [{"texts": 3, "images": 0}]
