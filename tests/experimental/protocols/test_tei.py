from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from coca.inference.predictor import Predictor
from server_process import data_uri, serving
from tiny_collection import write_collections


def test_a_single_text_is_a_batch_of_one(client: TestClient) -> None:
    body = {"inputs": "a cat", "normalize": True, "truncate": True, "truncation_direction": "Right"}
    found = client.post("/embed", json=body).json()
    assert found == client.post("/embed", json={"inputs": ["a cat"]}).json()
    assert np.linalg.norm(found[0]) == pytest.approx(1, abs=1e-5)


def test_requests_of_milvus_are_answered(
    predictor: Predictor, images: list[bytes], tmp_path: Path
) -> None:
    """The bodies and headers that `internal/util/function/models/tei` of Milvus 2.6 sends."""
    headers = {"Content-Type": "application/json", "Authorization": "Bearer key"}
    inputs = ["a red car", data_uri(images[0]), *(["a dog"] * 30)]
    uri = write_collections(tmp_path, predictor, {"pictures": images[:1]})
    with serving("--uri", uri, "--model", predictor.source, cache=tmp_path / "cache") as process:
        # Fields that are false or empty are left out.
        for options in ({}, {"truncate": True, "truncation_direction": "Right"}):
            answer = process.request("POST", "/embed", {"inputs": inputs, **options}, headers)
            assert answer.status == 200, answer.body
            found = np.array(answer.json(), np.float32)
            assert found.shape == (32, predictor.embed_dim)
            assert np.allclose(found[0], predictor.embed_texts(["a red car"])[0], atol=1e-5)
            assert np.allclose(found[1], predictor.embed_images(images[:1])[0], atol=1e-5)
        body = {"query": "a", "texts": ["b", "c"]}
        ranks = process.request("POST", "/rerank", body, headers).json()
    assert sorted(rank["index"] for rank in ranks) == [0, 1]


def test_fewer_dimensions_have_length_1(client: TestClient) -> None:
    (vector,) = client.post("/embed", json={"inputs": "a cat", "dimensions": 3}).json()
    assert len(vector) == 3
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "body", [{}, {"inputs": []}, {"inputs": ""}, {"inputs": "a", "truncation_direction": "Up"}]
)
def test_an_invalid_request_is_422(client: TestClient, body: dict[str, object]) -> None:
    assert client.post("/embed", json=body).status_code == 422


@pytest.mark.parametrize("direction", ["Right", "right", "", None])
def test_a_long_text_is_truncated_at_the_right(client: TestClient, direction: str | None) -> None:
    text = "a red car " * 100 + "a dog"
    found = client.post("/embed", json={"inputs": text, "truncation_direction": direction})
    assert found.json() == client.post("/embed", json={"inputs": "a red car " * 99}).json()


def test_a_long_text_may_be_truncated_at_the_left(client: TestClient, predictor: Predictor) -> None:
    text = "two dogs play " * 100 + "a red car near a tree"
    body = {"inputs": ["a cat", text], "truncation_direction": "Left"}
    short, found = np.array(client.post("/embed", json=body).json())
    tokenizer, length = predictor.processor.tokenizer, predictor.processor.context_length
    room = length - tokenizer.reserved
    kept = tokenizer.decode([*tokenizer.encode_prompt(text)[1:]][-room:])
    assert np.allclose(found, predictor.embed_texts([kept])[0], atol=1e-5)
    assert np.allclose(short, predictor.embed_texts(["a cat"])[0], atol=1e-5)


def test_texts_are_ranked_by_cosine(client: TestClient, predictor: Predictor) -> None:
    texts = ["two dogs play", "a red car", "a cat"]
    cosines = predictor.embed_texts(texts) @ predictor.embed_texts(["a red car"])[0]
    body = {"query": "a red car", "texts": texts}
    ranks = client.post("/rerank", json=body).json()
    assert [set(rank) for rank in ranks] == [{"index", "score"}] * 3
    assert [rank["index"] for rank in ranks] == np.argsort(-cosines).tolist()
    scores = [rank["score"] for rank in ranks]
    assert scores == pytest.approx(((1 + np.sort(cosines)[::-1]) / 2).tolist(), abs=1e-4)
    raw = client.post("/rerank", json={**body, "raw_scores": True, "return_text": True}).json()
    assert [rank["score"] for rank in raw] == pytest.approx(sorted(cosines)[::-1], abs=1e-4)
    assert [rank["text"] for rank in raw] == [texts[rank["index"]] for rank in ranks]


def test_images_are_ranked_by_caption_likelihood(
    client: TestClient, predictor: Predictor, images: list[bytes]
) -> None:
    body = {"query": "a car", "texts": [data_uri(image) for image in images], "raw_scores": True}
    ranks = client.post("/rerank", json=body).json()
    likelihoods = predictor.score(images, ["a car"], by_length=True)[:, 0]
    expected = sorted(likelihoods.tolist(), reverse=True)
    assert [rank["score"] for rank in ranks] == pytest.approx(expected, abs=1e-3)


def test_the_limits_are_reported(client: TestClient, predictor: Predictor) -> None:
    info = client.get("/info").json()
    assert info["model_sha"] == predictor.fingerprint
    assert info["max_input_length"] == predictor.processor.context_length
    assert (info["model_dtype"], info["auto_truncate"]) == ("float32", True)
    assert info["model_type"] == {"embedding": {"pooling": "cls"}}
