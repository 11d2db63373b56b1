"""Shared fixtures of the data tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from range_server import RangeServer, Serve


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[RangeServer] = []

    def start(folder: Path, *, fail_every: int = 0, etags: bool = False) -> RangeServer:
        servers.append(RangeServer(folder, fail_every, etags))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
