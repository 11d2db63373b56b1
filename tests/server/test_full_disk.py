"""The service on a disk that is really full: 507, readable, and nothing acknowledged is lost."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from coca.predict.torch_predictor import TorchPredictor
from limited_disk import LimitedDisk, limited_disk
from server_process import ServerProcess, data_uri, serving
from tiny_collection import upload_id_of
from tiny_data import image_bytes


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LimitedDisk]:
    with limited_disk(tmp_path, kind=request.param, size_mb=48) as mounted:
        yield mounted


def add(process: ServerProcess, number: int) -> int:
    body = {"image": data_uri(image_bytes(number)), "tags": ["new"]}
    return process.post("/v1/items", body).status


def check(process: ServerProcess, uri: str, numbers: set[int]) -> None:
    """The items are listed and found, and their images are readable; there are no others."""
    expected = {upload_id_of(uri, image_bytes(number)): number for number in numbers}
    for query in ({}, {"text": "a red car"}):
        answer = process.post("/v1/search", {"limit": 100, **query})
        assert answer.status == 200, answer.body
        assert {hit["id"] for hit in answer.json()["hits"]} == expected.keys()
    for id, number in expected.items():
        assert process.get(f"/v1/items/{id}/original").body == image_bytes(number)
        assert process.get(f"/v1/items/{id}/thumbnail").status == 200


@pytest.mark.service
def test_a_full_disk_is_507_and_the_service_stays_readable(
    disk: LimitedDisk, predictor: TorchPredictor, tmp_path: Path
) -> None:
    uri = str(disk.folder / "a.db")
    arguments = ("--uri", uri, "--model", predictor.source)
    # The cache of thumbnails is on the full disk, too.
    shared: dict[str, Any] = {"cache": disk.folder / "cache"}
    there = set(range(4))
    with serving(*arguments, "--create", **shared) as process:
        assert [add(process, number) for number in there] == [201] * 4
        id = upload_id_of(uri, image_bytes(0))
        # So little that the file of an upload fits, and its record may not.
        for leave in (16 << 10, 0):
            disk.fill(leave=leave)
            # Until the space that SQLite has reserved already is used up.
            added = 0
            while (status := add(process, 100 + len(there))) == 201:
                there.add(100 + len(there))
                added += 1
                assert added < 1_000
            assert status == 507
            check(process, uri, there)
        body = process.request("PATCH", f"/v1/items/{id}", {"metadata": {"long": "x" * 60_000}})
        assert (body.status, body.json()["error"]["message"]) == (
            507,
            "the service cannot write: its disk is full or fails; see its log",
        )
        os.kill(process.process.pid, signal.SIGKILL)
    with serving(*arguments, **shared) as process:
        check(process, uri, there)
        assert add(process, 99) == 507
        disk.clear()
        assert add(process, 99) == 201
        assert process.request("DELETE", f"/v1/items/{id}").status == 200
        there = {*there, 99} - {0}
        check(process, uri, there)
        os.kill(process.process.pid, signal.SIGKILL)
    with serving(*arguments, **shared) as process:
        check(process, uri, there)
    with closing(sqlite3.connect(uri)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
