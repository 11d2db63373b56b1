"""What the tests of this room share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from range_server import RangeServer, Serve


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[RangeServer] = []

    def start(folder: Path, *, fail_every: int = 0) -> RangeServer:
        servers.append(RangeServer(folder, fail_every))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers fork whatever an earlier test has read, since starting afresh takes seconds."""
    monkeypatch.setattr("coca.data.loader.fork_is_safe", lambda: True)
