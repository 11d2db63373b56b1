"""The service reads its collections in the background when it starts."""

import time

import pytest
from fastapi.testclient import TestClient

from coca.predict.torch_predictor import TorchPredictor
from coca.search.sqlite import blocks
from coca.search.sqlite.collection import SqliteCollection
from coca.server.app import create_app
from coca.server.service import open_service
from coca.server.settings import ServerSettings
from server_process import ids


def test_the_first_list_and_typed_query_find_all_items_read(
    uri: str, predictor: TorchPredictor, settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        open_service(uri, ["pictures", "others"], settings, model=predictor) as service,
        TestClient(create_app(service, settings), base_url="http://localhost") as client,
    ):
        deadline = time.monotonic() + 240
        while client.get("/readyz").json() != {"status": "ready", "reading": 0}:
            assert time.monotonic() < deadline

        def again(*_: object, **__: object) -> None:
            raise AssertionError("it is read already")

        monkeypatch.setattr(SqliteCollection, "pages", again)
        monkeypatch.setattr(blocks, "read", again)
        assert len(ids(client, {})) == 6
        assert len(ids(client, {"text": "a red car"})) == 6


def test_a_service_ends_while_it_reads(
    uri: str, predictor: TorchPredictor, settings: ServerSettings
) -> None:
    with open_service(uri, ["pictures"], settings, model=predictor) as service:
        service.read_ahead()
        service.read_ahead()
    assert service.reading in (0, 1)


def test_a_service_without_named_collections_serves_the_default(
    uri: str, predictor: TorchPredictor, settings: ServerSettings
) -> None:
    with open_service(uri, None, settings, model=predictor) as service:
        assert list(service.collections) == ["pictures"]
