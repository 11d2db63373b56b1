import logging
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from coca.core.errors import MissingExtraError, SearchError
from coca.search.milvus.connection import Connection, capabilities_of


@pytest.mark.parametrize("listens", [False, True])
def test_a_server_that_does_not_answer_is_named(listens: bool) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SearchError, match=f"no Milvus answers at {uri}"):
            Connection(uri, timeout_s=0.5)


class _Deaf:
    """Server that accepts connections and does not respond until released."""

    def __init__(self) -> None:
        self.end = threading.Event()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if not call.method.endswith("/Connect"):
                self.end.wait(240)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


def test_a_server_that_falls_silent_after_the_welcome_is_given_up_on() -> None:
    deaf = _Deaf()
    server = grpc.server(ThreadPoolExecutor(2), handlers=(deaf,))
    uri = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with pytest.raises(SearchError, match=rf"no Milvus answers at {uri} \(could not open"):
            # Enough for the welcome on a busy machine.
            Connection(uri, timeout_s=3.0)
    finally:
        deaf.end.set()
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("ftp://x", "Milvus at ftp://x could not open it: .*illegal"),
        ("milvus-lite:pictures", "path that ends in .db, got milvus-lite:pictures: use .*s.db"),
        ("milvus-lite:/absent/x.db", "could not open it: .*/absent not exists"),
    ],
)
def test_an_address_that_milvus_cannot_open_is_refused_in_one_line(uri: str, fault: str) -> None:
    with pytest.raises(SearchError, match=fault) as caught:
        Connection(uri)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_folder_that_another_process_has_open_is_an_error(tmp_path: Path) -> None:
    uri = f"milvus-lite:{tmp_path}/pictures.db"
    connection = Connection(uri)
    connection.close()
    connection.close()
    with pytest.raises(SearchError, match=f"the store {uri} was closed; open it again"):
        _ = connection.client
    code = "import sys; from coca.search.stores import open_store; open_store(sys.argv[1])"
    other = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True)
    assert other.returncode == 1
    assert other.stderr.splitlines()[-1].endswith(
        "only one process at a time may open a folder of Milvus Lite"
    )


def test_the_loggers_of_the_host_process_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loggers = [logging.getLogger(name) for name in ("pymilvus", "milvus_lite", "grpc._server")]
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.INFO)
    Connection(f"milvus-lite:{tmp_path}/pictures.db").close()
    assert [logger.level for logger in loggers] == [logging.INFO] * 3


@pytest.mark.parametrize(
    ("package", "uri", "extra"),
    [
        ("milvus_lite", "milvus-lite:x.db", r"\[milvus-lite\]"),
        ("pymilvus", "http://x", r"\[milvus\]"),
    ],
)
def test_a_missing_package_is_reported_with_the_command(
    package: str, uri: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=extra):
        Connection(uri)


def test_features_depend_on_the_version() -> None:
    assert not capabilities_of("v2.3.5").several_vectors
    assert capabilities_of("v2.4.0").several_vectors
    assert capabilities_of("v2.10.1").several_vectors
    assert [capabilities_of(f"v2.{n}.1").tokenizer for n in (4, 5)] == ["", "whitespace"]
    lite = capabilities_of("milvus_lite-3.2.2", "pictures.db")
    assert (lite.lite, lite.several_vectors) == (True, True)
    assert (lite.tokenizer, lite.product) == ("standard", "Milvus Lite 3.2.2")
    assert not capabilities_of("v2.3.5-lite").lite
    assert capabilities_of("v2.6.4", "https://in01-x.aws-us-west-2.zillizcloud.com:443").cloud
    assert not capabilities_of("v2.6.4", "http://localhost:19530").cloud


@pytest.mark.parametrize(
    ("version", "fault"),
    [
        ("v2.2.9", r"x is Milvus 2\.2\.9; 2\.3 or newer is needed"),
        ("dev", "x reports no version of Milvus: 'dev'"),
    ],
)
def test_a_server_that_is_too_old_is_refused(version: str, fault: str) -> None:
    with pytest.raises(SearchError, match=fault):
        capabilities_of(version, "x")
