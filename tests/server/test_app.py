import logging

import pytest

pytest.importorskip("mcp", reason="the extra mcp is not installed")

from starlette.testclient import TestClient

from coca.search.stores import open_store
from coca.server.app import create_app
from coca.server.service import Service


def test_the_application_leaves_the_logging_of_its_process_alone(service: Service) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    create_app(service, service.settings)
    assert (root.handlers, root.level) == before


def test_a_collection_that_was_dropped_is_503_in_one_sentence(client: TestClient, uri: str) -> None:
    with open_store(uri) as store:
        store.drop("pictures")
    answer = client.post("/v1/search", json={"text": "a red car"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "unavailable")
    assert uri not in error["message"]
