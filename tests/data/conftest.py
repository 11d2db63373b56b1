"""Shared fixtures of the data tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from range_server import RangeServer, Serve


@pytest.fixture
def s3_client(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let `s3://` lead to a server: `s3_client(server.url)`."""

    def configure(url: str) -> None:
        settings = {"ENDPOINT_URL": url, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
        settings |= {"ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key", "SESSION_TOKEN": "token"}
        for name, value in settings.items():
            monkeypatch.setenv(f"AWS_{name}", value)

    return configure


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[RangeServer] = []

    def start(folder: Path, *, fail_every: int = 0, etags: bool = False) -> RangeServer:
        servers.append(RangeServer(folder, fail_every, etags))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
