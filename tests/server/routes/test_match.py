"""Match probabilities of a calibrated collection in responses, against those of the library."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from coca.inference.predictor import Predictor
from coca.search.query.engine import SearchEngine
from coca.search.query.match import Calibration
from coca.search.records import Hit
from coca.search.stores import open_collection
from coca.server.app import create_app
from coca.server.service import open_service
from coca.server.settings import ServerSettings
from tiny_collection import write_collections

TEXT = "a red car"


@pytest.fixture
def expected(tmp_path: Path, predictor: Predictor, images: list[bytes]) -> list[Hit]:
    """Hits of the library; the limit is between the scores of the second and the third."""
    uri = write_collections(tmp_path, predictor, {"pictures": images})
    with open_collection(uri) as collection:
        size = collection.info.embed_dim
        calibration = Calibration(
            texts_mean=(0.0,) * size,
            records_mean=(0.0,) * size,
            fingerprint=predictor.fingerprint,
            median=-1.0,
            limit=0.0,
            false_alarms=0.05,
            records=6,
            other={"random letters": 40},
            matching=0,
            found=None,
        )
        (query,) = predictor.embed_texts([TEXT, "red car"]).mean(axis=0, keepdims=True)
        records = collection.get(collection.ids())
        scores = sorted(calibration.scores(query, TEXT, list(records.values())).tolist())
        fields = vars(calibration) | {"limit": (scores[-2] + scores[-3]) / 2}
        collection.keep_calibration(Calibration(**fields).to_json())
        return SearchEngine(predictor, collection).search(TEXT)


@pytest.fixture
def client(expected: list[Hit], tmp_path: Path, predictor: Predictor) -> Iterator[TestClient]:
    settings = ServerSettings(thumbnails=tmp_path / "t", uploads=tmp_path / "u")
    uri = str(tmp_path / "pictures.db")
    with (
        open_service(uri, ["pictures"], settings, model=predictor) as service,
        TestClient(create_app(service, settings), base_url="http://localhost") as opened,
    ):
        yield opened


def test_hits_are_marked_as_by_the_library(client: TestClient, expected: list[Hit]) -> None:
    body = client.post("/v1/search", json={"text": TEXT}).json()
    probabilities = {hit["id"]: hit["match_probability"] for hit in body["hits"]}
    wanted = {hit.id: hit.match_probability for hit in expected}
    assert probabilities == pytest.approx(wanted, abs=1e-4)
    marks = {hit["id"]: hit["is_match"] for hit in body["hits"]}
    assert marks == {hit.id: hit.is_match for hit in expected}
    assert set(marks.values()) == {True, False}
    (listed,) = client.get("/v1/collections").json()["collections"]
    assert listed["calibration"] == {"false_alarms": 0.05, "found": None, "records": 6}


def test_matches_are_weak_where_the_first_hit_is_no_match(
    client: TestClient, expected: list[Hit]
) -> None:
    for offset in (0, 2):
        page = {"text": TEXT, "offset": offset, "limit": 2}
        weak = client.post("/v1/search", json=page).json()["weak_matches"]
        assert weak is not expected[0].query_matches
    matching = [hit.id for hit in expected if hit.is_match]
    conditions = [{"field": "id", "operator": "!=", "value": id} for id in matching]
    body = client.post("/v1/search", json={"text": TEXT, "where": conditions}).json()
    assert len(body["hits"]) == len(expected) - len(matching)
    assert body["weak_matches"] is True
    # A query of an image has no verdict.
    other = client.post("/v1/search", json={"id": expected[0].id}).json()
    assert other["weak_matches"] is None
    assert {hit["is_match"] for hit in other["hits"]} == {None}
