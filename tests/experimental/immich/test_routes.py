import io
import json

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from coca.inference.predictor import Predictor


def test_requests_of_immich_are_answered(
    client: TestClient, predictor: Predictor, images: list[bytes]
) -> None:
    """The forms that `machine-learning.repository.ts` of immich's server sends."""
    assert client.get("/ping").text == "pong"
    image = images[5]
    entries = {"clip": {"visual": {"modelName": "ViT-B-32__openai"}}}
    # A blob without a type.
    files = {"image": ("blob", image, "application/octet-stream")}
    answer = client.post("/predict", data={"entries": json.dumps(entries)}, files=files)
    assert answer.status_code == 200, answer.text
    size = answer.json()["imageHeight"], answer.json()["imageWidth"]
    assert size == Image.open(io.BytesIO(image)).size[::-1]
    np.testing.assert_allclose(
        json.loads(answer.json()["clip"]), predictor.embed_images([image])[0], atol=1e-6
    )

    options = {"modelName": "ViT-B-32__openai", "options": {"language": "de"}}
    form = {"entries": (None, json.dumps({"clip": {"textual": options}})), "text": (None, "12")}
    answer = client.post("/predict", files=form)
    assert set(answer.json()) == {"clip"}, answer.text
    vector = json.loads(answer.json()["clip"])
    np.testing.assert_allclose(vector, predictor.embed_texts(["12"])[0], atol=1e-6)


@pytest.mark.parametrize(
    "entries",
    [
        {"facial-recognition": {"detection": {"modelName": "buffalo_l"}}},
        {"clip": {"visual": {"modelName": "a"}}},
        {"clip": {}},
        {},
        "clip",
    ],
)
def test_other_tasks_of_immich_are_refused(client: TestClient, entries: object) -> None:
    form = {"entries": (None, json.dumps(entries)), "text": (None, "a dog")}
    assert client.post("/predict", files=form).status_code == 422
