import io
from collections import Counter

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from coca.predict.torch_predictor import TorchPredictor
from coca.processing.caption_words import CaptionWords, words_of
from coca.search.mining.recommend import recommend
from coca.server.service import Service
from server_process import data_uri


def test_recommendations_are_those_of_the_library(
    client: TestClient, service: Service, item_ids: list[str]
) -> None:
    id = item_ids[0]
    body = {"positive": [{"id": id}], "negative": [{"id": item_ids[1]}], "limit": 3}
    hits = client.post("/v1/recommend", json=body).json()["hits"]
    expected = recommend(
        service.collections["pictures"].engine,
        [id],
        negative=[item_ids[1]],
        limit=3,
    )
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
    # The default diversity is the same.
    assert [hit["rank_score"] for hit in hits] == pytest.approx(
        [hit.rank_score for hit in expected]
    )


def test_facets_count_values(client: TestClient) -> None:
    body = client.post("/v1/facets", json={}).json()
    assert body["total"] == 6
    counts = {
        facet["field"]: {value["value"]: value["count"] for value in facet["values"]}
        for facet in body["facets"]
    }
    assert counts["tags"] == {"t0": 3, "t1": 3}
    assert counts["metadata.year"] == dict.fromkeys(range(6), 1)
    few = {"fields": ["tags"], "filter": 'metadata["year"] < 3', "limit": 1}
    (facet,) = client.post("/v1/facets", json=few).json()["facets"]
    assert (facet["values"], facet["others"]) == ([{"value": "t0", "count": 2}], 1)


def test_facets_of_a_text_count_its_likely_hits(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = {"text": "a red car 1", "filter": 'metadata["year"] < 5'}
    everything = client.post("/v1/facets", json=query).json()
    assert (everything["total"], everything["complete"]) == (5, True)
    monkeypatch.setattr("coca.search.query.engine.line_of", lambda *_: 1.0)
    found = client.post("/v1/search", json=query).json()["hits"]
    likely = [hit for hit in found if hit["likely"]]
    assert 0 < len(likely) < 5
    body = client.post("/v1/facets", json=query | {"fields": ["tags"]}).json()
    assert (body["total"], body["complete"]) == (len(likely), True)
    (facet,) = body["facets"]
    counts = Counter(tag for hit in likely for tag in hit["tags"])
    assert {one["value"]: one["count"] for one in facet["values"]} == counts
    monkeypatch.setattr("coca.search.query.sections.FIRST_HITS", len(likely))
    assert not client.post("/v1/facets", json=query).json()["complete"]


def test_copies_are_grouped_best_first(client: TestClient, images: list[bytes]) -> None:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(images[0])) as image:
        image.resize((2 * image.width, 2 * image.height)).save(stream, "PNG")
    scope = {"collection": "pictures"}
    assert client.post("/v1/duplicates", json=scope).json()["groups"] == []
    large = client.post("/v1/items", json=scope | {"image": data_uri(stream.getvalue())}).json()
    body = client.post("/v1/duplicates", json=scope | {"limit": 1}).json()
    (group,) = body["groups"]
    assert (group["kind"], body["total"]) == ("same image", 1)
    assert [item["width"] for item in group["items"]] == [large["width"], large["width"] // 2]
    for item in group["items"]:
        assert item["bytes"] == len(client.get(item["original"]).content)
    client.delete(f"/v1/items/{large['id']}?collection=pictures")


def test_the_words_of_a_caption_are_chosen_by_the_request(
    client: TestClient,
    predictor: TorchPredictor,
    images: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = CaptionWords.of(["red", "the", "ugly"])
    monkeypatch.setattr(predictor.processor, "caption_words", words)
    request = {"image": data_uri(images[0]), "num_return_sequences": 4, "num_beams": 4}
    polite, free = (
        [one["text"] for one in client.post("/v1/caption", json=request | it).json()["captions"]]
        for it in ({}, {"words": "any"})
    )
    (best,) = predictor.caption([images[0]], num_return_sequences=4, num_beams=4)
    assert polite == [one.text for one in (best, *best.others)]
    assert {word for text in polite for word in words_of(text)} <= {"red", "the"}
    assert polite != free
    answer = client.post("/v1/caption", json={"image": data_uri(images[0]), "words": "rude"})
    assert answer.status_code == 422


def test_captions_and_labels_are_those_of_the_model(
    client: TestClient, predictor: TorchPredictor, images: list[bytes], item_ids: list[str]
) -> None:
    request = {"image": data_uri(images[0]), "num_beams": 2}
    body = client.post("/v1/caption", json=request).json()
    (expected,) = predictor.caption([images[0]], num_beams=2)
    assert body["captions"][0]["text"] == expected.text
    assert body["captions"][0]["score"] == pytest.approx(expected.score, abs=1e-3)
    labels = ["a red car", "two dogs play"]
    request = {"id": item_ids[0], "labels": labels}
    found = client.post("/v1/classify", json=request).json()["labels"]
    (classes,) = predictor.classify([images[0]], labels, templates=["{}"])
    assert [one["label"] for one in found] == [one.label for one in classes]


def test_a_model_without_a_head_answers_no_question(
    client: TestClient, item_ids: list[str]
) -> None:
    request = {"id": item_ids[0], "question": "a red"}
    answer = client.post("/v1/answer", json=request)
    assert answer.status_code == 400
    assert "has no head for questions" in answer.json()["error"]["message"]
