"""A small web server with range reads, which can be set to fail now and then."""

import hashlib
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote


class RangeServer(ThreadingHTTPServer):
    """Serves a folder, and takes files by PUT.

    Every `fail_every`-th range read breaks off or answers 500, by turns.
    With `etags`, answers carry a hash of the content, as object stores send one.
    """

    daemon_threads = True

    def __init__(self, folder: Path, fail_every: int = 0, etags: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.fail_every = fail_every
        self.etags = etags
        self.refuses = ""
        """Code of an S3 error, such as `ExpiredToken`, that answers every request."""
        self.refuses_writes = ""
        """Code that answers every PUT."""
        self.seen: Counter[str] = Counter()
        self.targets: set[str] = set()
        self.sent_bytes = 0

        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise the body waits 40 ms for the acknowledgement of the headers.
    disable_nagle_algorithm = True
    server: RangeServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.server.targets.add(f"{self.command} {self.path}")
        if self.server.refuses:
            self._refuse(self.server.refuses, body=body)
            return
        path = self.server.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        wanted = self.headers.get("Range")
        self.server.seen["range" if wanted else "whole"] += 1
        fails = (
            self.server.fail_every
            and body
            and self.server.seen["range"] % self.server.fail_every == 0
        )
        if fails and self.server.seen["failed"] % 2:
            self.server.seen["failed"] += 1
            self.send_error(500)
            return
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last) + 1, len(content))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            content = content[start:end]
        else:
            self.send_response(200)
        if self.server.etags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fails:
            self.server.seen["failed"] += 1
            content = content[: len(content) // 2]
            self.close_connection = True
        if body:
            self.server.sent_bytes += len(content)
            self.wfile.write(content)

    def _refuse(self, code: str, *, body: bool) -> None:
        self.server.seen["refused"] += 1
        error = f"<?xml?>\n<Error><Code>{code}</Code></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(error)))
        self.end_headers()
        self.wfile.write(error if body else b"")

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuses_writes:
            self._refuse(self.server.refuses_writes, body=True)
            return
        path = self.server.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.server.seen["put"] += 1
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()


class Serve(Protocol):
    def __call__(
        self, folder: Path, *, fail_every: int = 0, etags: bool = False
    ) -> RangeServer: ...
