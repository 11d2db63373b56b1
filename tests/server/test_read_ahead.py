"""The service reads its collections in the background when it starts."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from coca.inference.predictor import Predictor
from coca.search.milvus.collection import Collection
from coca.search.query.collection_copy import CollectionCopy
from coca.search.query.saved_copy import find_copy
from coca.server.app import create_app
from coca.server.service import open_service
from coca.server.settings import ServerSettings
from server_process import ids, serving
from tiny_collection import write_collections


def test_the_first_list_and_typed_query_find_all_items_read(
    uri: str, predictor: Predictor, settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        open_service(uri, ["pictures", "others"], settings, model=predictor) as service,
        TestClient(create_app(service, settings), base_url="http://localhost") as client,
    ):
        deadline = time.monotonic() + 240
        while client.get("/readyz").json() != {"status": "ready", "reading": 0}:
            assert time.monotonic() < deadline

        def again(*_: object) -> None:
            raise AssertionError("it is read already")

        monkeypatch.setattr(Collection, "read_hits", again)
        monkeypatch.setattr(CollectionCopy, "_read", again)
        assert len(ids(client, {})) == 6
        assert len(ids(client, {"text": "a red car"})) == 6


def test_a_service_ends_while_it_reads(
    uri: str, predictor: Predictor, settings: ServerSettings
) -> None:
    with open_service(uri, ["pictures"], settings, model=predictor) as service:
        service.read_ahead()
        service.read_ahead()
    assert service.reading in (0, 1)


def test_a_deletion_by_the_service_is_all_that_the_next_search_reads(
    tmp_path: Path, predictor: Predictor, images: list[bytes]
) -> None:
    uri = write_collections(tmp_path, predictor, {"pictures": images})
    arguments = ("--uri", uri, "--model", predictor.source)
    with serving(*arguments, cache=tmp_path / "cache") as process:
        found = process.post("/v1/search", {"text": "a red car"}).json()["hits"]
        deleted = found[0]["id"]
        assert process.request("DELETE", f"/v1/items/{deleted}").status == 200
    saved = find_copy(uri, "pictures")
    assert saved is not None
    assert saved.changed == (deleted,)
    command = [sys.executable, "-m", "coca", "search", "a red car", *arguments, "--json"]
    for _ in range(2):
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert {hit["id"] for hit in json.loads(answer)} == {
            hit["id"] for hit in found if hit["id"] != deleted
        }
        saved = find_copy(uri, "pictures")
        assert saved is not None
        assert saved.changed == ()
