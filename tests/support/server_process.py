"""A real `coca serve` process, and plain HTTP requests to it."""

import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit


def data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def ids(client: Any, body: dict[str, Any]) -> list[str]:
    """The ids that a search finds; the search must succeed."""
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


SEARCH_HEAD = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
"""The head of a request, to which the length of its body is appended."""


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class ServerProcess:
    """A running service."""

    url: str
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)
    """Lines that it has written."""

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def request(
        self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request in a connection of its own; the target is sent as it is."""
        connection = http.client.HTTPConnection(*self.address, timeout=240)
        try:
            given = dict(headers or {})
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
                given.setdefault("Content-Type", "application/json")
            connection.request(method, target, body, given)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, target: str) -> Answer:
        return self.request("GET", target)

    def post(self, target: str, body: Any) -> Answer:
        return self.request("POST", target, body)

    def exchange(self, sent: bytes) -> bytes:
        """Send bytes, and read until the service closes the connection."""
        with socket.create_connection(self.address, timeout=240) as connection:
            received = b""
            with suppress(ConnectionError):
                connection.sendall(sent)
                while part := connection.recv(65_536):
                    received += part
            return received


WITH_DEFAULTS = """
from coca.cli.app import main
from coca.server.settings import ServerSettings
for name, value in {}.items():
    ServerSettings.model_fields[name].default = value
ServerSettings.model_rebuild(force=True)
main()
"""


@contextmanager
def serving(
    *arguments: str,
    cache: Path,
    environment: Mapping[str, str] | None = None,
    defaults: Mapping[str, float] | None = None,
) -> Iterator[ServerProcess]:
    """Run `coca serve` on a free port; `defaults` are those of settings that are no options."""
    run = ["-c", WITH_DEFAULTS.format(defaults)] if defaults else ["-m", "coca"]
    command = [sys.executable, *run, "serve", "--port", "0", *arguments]
    variables = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**variables, **(environment or {})},
    ) as process:
        try:
            assert process.stdout is not None
            shown: list[str] = []
            for line in process.stdout:
                shown.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    # A full pipe would stop the service at its next line.
                    reader = Thread(target=shown.extend, args=[process.stdout], daemon=True)
                    reader.start()
                    try:
                        yield ServerProcess(found[0], process, shown)
                    finally:
                        process.terminate()
                        reader.join()
                    return
            raise AssertionError("coca serve ended early: " + "".join(shown))
        finally:
            process.terminate()


def child_processes(pid: int, part: str) -> set[int]:
    """The running children of a process whose command line contains a text (Linux)."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        children = ""
        with suppress(OSError):  # a thread may end while this reads
            children = (task / "children").read_text()
        for child in map(int, children.split()):
            with suppress(OSError):
                if part.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.add(child)
    return found
