"""Match probabilities of a calibrated collection in responses, against those of the library."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from coca.inference.predictor import Predictor
from coca.search.milvus.collection import Collection
from coca.search.query.engine import SearchEngine
from coca.search.query.match import Calibration
from coca.server.app import create_app
from coca.server.service import open_service
from coca.server.settings import ServerSettings
from tiny_collection import write_collections

TEXT = "a red car"


@pytest.fixture
def expected(tmp_path: Path, predictor: Predictor, images: list[bytes]) -> dict[str, float]:
    """Match probabilities by id; the threshold is between the second and the third."""
    uri = write_collections(tmp_path, predictor, {"pictures": images})
    with Collection.open(uri) as collection:
        calibration = Calibration(
            fingerprint=predictor.fingerprint,
            cosine_weight=1.0,
            pmi_weight=1.0,
            bias=0.0,
            threshold=0.0,
            false_alarms=0.05,
            samples=tuple(sorted(collection.ids())[:4]),
            records=6,
            matching=6,
            other={"left out": 6},
            found=0.5,
        )
        collection.keep_calibration(calibration.to_json())
        found = {}
        for hit in SearchEngine(predictor, collection).search(TEXT):
            assert hit.match_probability is not None
            found[hit.id] = hit.match_probability
        second, third = sorted(found.values(), reverse=True)[1:3]
        fields = vars(calibration) | {"threshold": (second + third) / 2}
        collection.keep_calibration(Calibration(**fields).to_json())
    return found


@pytest.fixture
def client(
    expected: dict[str, float], tmp_path: Path, predictor: Predictor
) -> Iterator[TestClient]:
    settings = ServerSettings(thumbnails=tmp_path / "t", uploads=tmp_path / "u")
    uri = str(tmp_path / "pictures.db")
    with (
        open_service(uri, ["pictures"], settings, model=predictor) as service,
        TestClient(create_app(service, settings), base_url="http://localhost") as opened,
    ):
        yield opened


def test_hits_are_marked_as_by_the_library(client: TestClient, expected: dict[str, float]) -> None:
    body = client.post("/v1/search", json={"text": TEXT, "hybrid": False}).json()
    found = {hit["id"]: hit["match_probability"] for hit in body["hits"]}
    assert found == pytest.approx(expected, abs=1e-4)
    marks = {hit["id"]: hit["is_match"] for hit in body["hits"]}
    assert marks == {id: one > body["threshold"] for id, one in found.items()}
    assert sum(marks.values()) == 2
    assert body["nothing_matches"] is False
    (listed,) = client.get("/v1/collections").json()["collections"]
    assert listed["calibration"]["threshold"] == body["threshold"]


def test_an_item_that_a_person_named_so_matches_at_any_probability(
    client: TestClient,
) -> None:
    body = client.post("/v1/search", json={"text": TEXT}).json()
    assert {hit["is_match"] for hit in body["hits"] if TEXT in hit["caption"]} == {True}
    assert any(hit["match_probability"] < body["threshold"] for hit in body["hits"])


def test_nothing_matches_where_no_hit_does(client: TestClient) -> None:
    hits = client.post("/v1/search", json={"text": TEXT, "hybrid": False}).json()["hits"]
    matching = [hit["id"] for hit in hits if hit["is_match"]]
    conditions = [{"field": "id", "operator": "!=", "value": id} for id in matching]
    body = client.post(
        "/v1/search", json={"text": TEXT, "hybrid": False, "where": conditions}
    ).json()
    assert len(body["hits"]) == len(hits) - 2
    assert body["nothing_matches"] is True
    # Another page does not decide, and a query of an image has no threshold.
    later = client.post("/v1/search", json={"text": TEXT, "offset": 2, "limit": 2}).json()
    assert later["nothing_matches"] is None
    other = client.post("/v1/search", json={"id": hits[0]["id"]}).json()
    assert (other["nothing_matches"], other["threshold"]) == (None, None)
    assert {hit["is_match"] for hit in other["hits"]} == {None}
