"""The real huggingface_hub against a small server on this machine."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from coca.core.errors import MissingExtraError, ModelError
from coca.predict.hub import HuggingFace

FILES = {"config.json": b"{}", "weights.bin": bytes(range(256)) * 40}
STATED_MB = {"config.json": 2, "weights.bin": 605}
COMMIT = "0123456789" * 4


class Handler(BaseHTTPRequestHandler):
    """As much of the hub as fetching needs: one repository, `some/model`."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/some/model"):
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in FILES.items()
            ]
            sizes = STATED_MB if "blobs=" in self.path else dict.fromkeys(FILES, 0)
            siblings = [{"rfilename": file, "size": 10**6 * sizes[file]} for file in FILES]
            about: dict[str, Any] = {"id": "some/model", "sha": COMMIT, "siblings": siblings}
            about |= {} if "/revision/" in path else {"cardData": {"license": "mit"}}
            content = json.dumps(tree if "/tree/" in path else about).encode()
            self._send(200, content, body=body)
        elif not path.startswith("/some/model/"):
            self._send(404, b"", body=body, code="RepoNotFound")
        elif "/resolve/gone/" in path:
            self._send(404, b"", body=body, code="RevisionNotFound")
        elif name not in FILES:
            self._send(404, b"", body=body, code="EntryNotFound")
        else:
            self._send(200, FILES[name], body=body)

    def _send(self, status: int, content: bytes, *, body: bool, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        else:
            self.send_header("ETag", f'"{abs(hash(content)):040x}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFace]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield HuggingFace(endpoint=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_are_listed_and_fetched(hub: HuggingFace) -> None:
    assert sorted(hub.files("some/model", revision=None)) == sorted(FILES)
    for name, content in FILES.items():
        assert hub.fetch("some/model", name, revision=None).read_bytes() == content


def test_the_size_and_licence_of_missing_files_are_known_before_a_download(
    hub: HuggingFace,
) -> None:
    names = list(FILES)
    assert hub.about("some/model", names, revision=None) == "607 MB, licence mit"
    assert hub.about("some/model", names, revision=COMMIT) == "607 MB, licence not stated"
    assert hub.about("some/other", names, revision=None) == ""
    hub.fetch("some/model", "config.json", revision=None)
    assert hub.about("some/model", names, revision=None) == "605 MB, licence mit"
    hub.fetch("some/model", "weights.bin", revision=None)
    assert hub.about("some/model", names, revision=None) == ""


@pytest.mark.parametrize(
    ("repo", "name", "revision", "sentence"),
    [
        ("some/model", "other.bin", None, "the repository has no such file"),
        ("some/other", "weights.bin", None, "the hub has no such repository"),
        ("some/model", "weights.bin", "gone", "the repository has no such revision"),
        ("not a/name", "weights.bin", None, "this is not a name of a repository"),
    ],
)
def test_missing_files_are_reported_in_one_short_sentence(
    hub: HuggingFace, repo: str, name: str, revision: str | None, sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        hub.fetch(repo, name, revision=revision)


def test_a_repository_that_is_not_there_has_no_list(hub: HuggingFace) -> None:
    with pytest.raises(ModelError, match="no such repository"):
        hub.files("some/other", revision=None)


def refusing(error: Exception) -> Any:
    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    return refuse


def test_terms_that_want_accepting_are_reported(
    hub: HuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = huggingface_hub.errors.GatedRepoError.__new__(huggingface_hub.errors.GatedRepoError)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refusing(gated))
    with pytest.raises(ModelError, match="accept terms and to log in"):
        hub.fetch("some/model", "weights.bin", revision=None)


def test_a_hub_out_of_reach_is_reported_with_the_reason(
    hub: HuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = huggingface_hub.errors
    unreached = errors.LocalEntryNotFoundError("a page of advice")
    unreached.__cause__ = socket.gaierror("name or service not known")
    for error, sentence in (
        (unreached, "the hub cannot be reached: name or service not known$"),
        (errors.LocalEntryNotFoundError("a page of advice"), "the hub cannot be reached$"),
        (TimeoutError(), "the hub cannot be reached: TimeoutError$"),
    ):
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", refusing(error))
        with pytest.raises(ModelError, match=sentence):
            hub.fetch("some/model", "weights.bin", revision=None)


def test_a_missing_network_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # huggingface_hub retries for half a minute, with pauses.
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"a pause of {seconds} s"))
    # A name that never has an address (RFC 2606).
    hub = HuggingFace(endpoint="http://hub.invalid")
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        hub.files("some/model", revision=None)
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        hub.fetch("some/model", "config.json", revision=None)


def test_without_the_package_the_command_that_brings_it_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[hub\]"):
        HuggingFace().fetch("some/model", "weights.bin", revision=None)


class Api:
    """Keeps what an upload would send."""

    calls: list[tuple[str, dict[str, Any]]]

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = endpoint

    def create_repo(self, repo: str, **options: Any) -> None:
        self.calls.append((repo, options))

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))


def test_a_folder_goes_into_a_repository_that_is_made_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Api.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    HuggingFace().upload(tmp_path, "some/model", private=True)
    assert Api.calls == [
        ("some/model", {"private": True, "exist_ok": True}),
        ("upload", {"repo_id": "some/model", "folder_path": tmp_path}),
    ]


def test_an_upload_that_is_refused_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Api, "create_repo", refusing(PermissionError("log in first")))
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(ModelError, match=r"cannot be put into some/model: .*log in first"):
        HuggingFace().upload(tmp_path, "some/model", private=False)
