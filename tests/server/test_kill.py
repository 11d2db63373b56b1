"""Crash safety of the service: `kill -9` under concurrent writes loses no acknowledged write."""

import os
import signal
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from coca.predict.torch_predictor import TorchPredictor
from server_process import ServerProcess, data_uri, serving
from tiny_collection import upload_id_of
from tiny_data import image_bytes

KILLS = int(os.environ.get("KILLS", "2"))
"""Number of kills; more take minutes: `KILLS=20 pytest tests/server/test_kill.py`."""
WRITERS = 6
WRITES = 40
"""Number of acknowledged writes after which the service is killed."""

MISSING: dict[str, Any] = {}


@dataclass
class Writer:
    """Adds, changes and deletes items of its own, and remembers what was acknowledged."""

    number: int
    uri: str
    acknowledged: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Id -> the expected tags; `MISSING`: deleted."""
    pending: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was sent and not acknowledged, which may or may not have been done."""
    images: dict[str, bytes] = field(default_factory=dict)
    sent: int = 0

    def write(self, process: ServerProcess, enough: threading.Semaphore) -> None:
        """Write until the service is killed."""
        while True:
            data = image_bytes(1_000_000 * (self.number + 1) + self.sent)
            id, self.sent = upload_id_of(self.uri, data), self.sent + 1
            self.images[id] = data
            body = {"image": data_uri(data), "tags": ["new"]}
            steps: list[tuple[str, str, Any, dict[str, Any]]] = [
                ("POST", "/v1/items", body, {"tags": ["new"]})
            ]
            if self.sent % 2:
                change = {"add_tags": ["changed"]}
                tags = {"tags": ["new", "changed"]}
                steps.append(("PATCH", f"/v1/items/{id}", change, tags))
            if self.sent % 3 == 0:
                steps.append(("DELETE", f"/v1/items/{id}", None, MISSING))
            for method, target, sent, expected in steps:
                self.pending = {id: expected}
                try:
                    answer = process.request(method, target, sent)
                except (OSError, HTTPException):
                    return
                assert answer.status in (200, 201), answer.body
                self.acknowledged[id], self.pending = expected, {}
                enough.release()

    def check(self, process: ServerProcess) -> None:
        """Check that the items are as acknowledged."""
        for id, expected in self.acknowledged.items():
            item, original = (process.get(f"/v1/items/{id}{rest}") for rest in ("", "/original"))
            found = {"tags": item.json()["tags"]} if item.status == 200 else MISSING
            assert found in (expected, self.pending.get(id, expected)), (id, found, expected)
            if found:
                assert original.body == self.images[id]
            self.acknowledged[id] = found
        self.pending = {}


@pytest.mark.service
@pytest.mark.timeout(3_600)
def test_no_acknowledged_write_is_lost_to_a_kill(tmp_path: Path, predictor: TorchPredictor) -> None:
    uri = str(tmp_path / "a.db")
    arguments = ("--uri", uri, "--model", predictor.source)
    writers = [Writer(number, uri) for number in range(WRITERS)]
    for _ in range(KILLS):
        with serving(*arguments, "--create", cache=tmp_path / "cache") as process:
            for writer in writers:
                writer.check(process)
            enough = threading.Semaphore(0)
            threads = [
                threading.Thread(target=writer.write, args=(process, enough)) for writer in writers
            ]
            for thread in threads:
                thread.start()
            for _ in range(WRITES):
                assert enough.acquire(timeout=600)
            os.kill(process.process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
    with serving(*arguments, cache=tmp_path / "cache") as process:
        for writer in writers:
            writer.check(process)
        kept = sum(expected != MISSING for one in writers for expected in one.acknowledged.values())
        listed = process.post("/v1/search", {"limit": 1_000}).json()
        # Writes that were sent and not acknowledged may be there, too: one of each writer and kill.
        assert kept <= listed["total"] <= kept + WRITERS * KILLS
    with closing(sqlite3.connect(uri)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = connection.execute("SELECT count(*), count(DISTINCT path) FROM pictures").fetchone()
        assert found == (listed["total"], listed["total"])
