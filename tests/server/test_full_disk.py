"""The service on a disk that is really full: 507, readable, and nothing acknowledged is lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from coca.inference.predictor import Predictor
from coca.search.records import content_id
from limited_disk import LimitedDisk, limited_disk
from server_process import ServerProcess, data_uri, serving
from tiny_data import image_bytes


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LimitedDisk]:
    with limited_disk(tmp_path, kind=request.param, size_mb=160) as mounted:
        yield mounted


def add(process: ServerProcess, number: int) -> int:
    body = {"image": data_uri(image_bytes(number)), "tags": ["new"]}
    return process.post("/v1/items", body).status


def check(process: ServerProcess, numbers: set[int]) -> None:
    """The items are listed and found, and their images are readable; there are no others."""
    expected = {content_id(image_bytes(number)): number for number in numbers}
    for query in ({}, {"text": "a red car"}):
        answer = process.post("/v1/search", {"limit": 100, **query})
        assert answer.status == 200, answer.body
        assert {hit["id"] for hit in answer.json()["hits"]} == expected.keys()
    for id, number in expected.items():
        assert process.get(f"/v1/items/{id}/original").body == image_bytes(number)
        assert process.get(f"/v1/items/{id}/thumbnail").status == 200


def test_a_full_disk_is_507_and_the_service_stays_readable(
    disk: LimitedDisk, predictor: Predictor, tmp_path: Path
) -> None:
    arguments = ("--uri", str(disk.folder / "a.db"), "--model", predictor.source)
    # The cache of thumbnails is on the full disk, too.
    shared: dict[str, Any] = {"cache": disk.folder / "cache"}
    there = set(range(4))
    with serving(*arguments, "--create", **shared) as process:
        assert [add(process, number) for number in there] == [201] * 4
        id = content_id(image_bytes(0))
        for leave in (8 << 20, 0):
            disk.fill(leave=leave)
            assert add(process, 100) == 507
            assert process.request("PATCH", f"/v1/items/{id}", {"add_tags": ["a"]}).status == 507
            check(process, there)
        os.kill(process.process.pid, signal.SIGKILL)
    with serving(*arguments, **shared) as process:
        check(process, there)
        assert add(process, 100) == 507
        disk.clear()
        assert add(process, 100) == 201
        assert process.request("DELETE", f"/v1/items/{id}").status == 200
        there = {*there, 100} - {0}
        check(process, there)
        os.kill(process.process.pid, signal.SIGKILL)
    with serving(*arguments, **shared) as process:
        check(process, there)
