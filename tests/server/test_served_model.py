"""One request never holds the model: others are answered meanwhile."""

import threading

import numpy as np
from fastapi.testclient import TestClient

from coca.server.service import Service
from server_process import data_uri


def test_a_text_is_embedded_during_a_large_classification(
    service: Service, images: list[bytes]
) -> None:
    labels = [f"label {number}" for number in range(1_000)]
    templates = [f"template {number} of {{}}" for number in range(10)]
    ended = threading.Event()

    def classify() -> None:
        service.model.classify([images[0]], labels, templates=templates)
        ended.set()

    thread = threading.Thread(target=classify)
    thread.start()
    for number in range(5):
        service.model.embed_texts([f"a red car {number}"])
    assert not ended.is_set()
    thread.join()


def test_images_are_scored_batch_by_batch(service: Service, images: list[bytes]) -> None:
    many = (images * 20)[:100]
    found = service.model.score(many, ["a red car", "a cat"])
    assert np.allclose(found, np.tile(found[:6], (17, 1))[:100], atol=1e-4)
    assert service.model.score([], ["a red car"]).shape == (0, 1)


def test_too_many_prompts_are_422(client: TestClient, images: list[bytes]) -> None:
    image = data_uri(images[0])
    for labels, templates in (
        ([str(number) for number in range(1_000)], ["{}"] * 11),
        (["x" * 4_000], ["{}" * 2_000]),
    ):
        body = {"image": image, "labels": labels, "templates": templates}
        answer = client.post("/v1/classify", json=body)
        assert answer.status_code == 422
        assert "at most" in answer.json()["error"]["message"]
