from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from coca.inference.predictor import Predictor
from server_process import data_uri, serving
from tiny_collection import write_collections


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
