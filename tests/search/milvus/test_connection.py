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
from coca.search.milvus.connection import Connection


@pytest.mark.parametrize("listens", [False, True])
def test_a_server_that_does_not_answer_is_named(listens: bool) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SearchError, match=f"no Milvus answers at {uri}"):
            Connection(uri, timeout_s=0.5, create=False)


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
            Connection(uri, timeout_s=0.5, create=False)
    finally:
        deaf.end.set()
        server.stop(None).wait()


def test_an_address_of_an_unknown_kind_is_refused_in_one_line() -> None:
    with pytest.raises(SearchError, match=r"Milvus at ftp://x could not open it: .*illegal") as e:
        Connection("ftp://x", create=False)
    assert "\n" not in str(e.value)


def test_a_closed_connection_is_an_error_and_may_be_closed_twice(tmp_path: Path) -> None:
    connection = Connection(str(tmp_path / "pictures.db"), create=True)
    connection.close()
    connection.close()
    with pytest.raises(SearchError, match="was closed; open it again"):
        _ = connection.client


def test_a_failed_opening_lets_go_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "pictures.db")
    with monkeypatch.context() as patch:
        import pymilvus

        def refuse(*arguments: object, **settings: object) -> None:
            raise pymilvus.MilvusException(message="no\nreally")

        patch.setattr(pymilvus, "MilvusClient", refuse)
        with pytest.raises(SearchError, match=r"could not open it: no$"):
            Connection(uri, create=True)
    assert opens_in_another_process(uri)


def test_closing_lets_the_next_process_in(tmp_path: Path) -> None:
    uri = str(tmp_path / "pictures.db")
    connection = Connection(uri, create=True)
    assert not opens_in_another_process(uri)
    connection.close()
    assert opens_in_another_process(uri)


def test_threads_may_open_one_folder_at_once(tmp_path: Path) -> None:
    uri = str(tmp_path / "pictures.db")
    opened: list[Connection] = []
    threads = [
        threading.Thread(target=lambda: opened.append(Connection(uri, create=True)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for connection in opened:
        assert connection.client.list_collections() == []
        connection.close()


def test_the_loggers_of_the_host_process_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loggers = [logging.getLogger(name) for name in ("pymilvus", "milvus_lite", "grpc._server")]
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.INFO)
    Connection(str(tmp_path / "pictures.db"), create=True).close()
    assert [logger.level for logger in loggers] == [logging.INFO] * 3


def test_a_fault_of_the_network_is_a_sentence_too(tmp_path: Path) -> None:
    connection = Connection(str(tmp_path / "pictures.db"), create=True)
    with pytest.raises(SearchError, match="could not count: RpcError"), connection.faults("count"):
        raise connection._rpc_error
    connection.close()


def test_a_missing_package_is_reported_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "milvus_lite", None)
    with pytest.raises(MissingExtraError, match=r"coca-captioners\[search\]"):
        Connection(str(tmp_path / "pictures.db"), create=True)


def opens_in_another_process(uri: str) -> bool:
    code = (
        "import sys; from coca.search.milvus.connection import Connection;"
        "Connection(sys.argv[1], create=False).close()"
    )
    done = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True)
    assert done.returncode == 0 or "another process" in done.stderr
    return done.returncode == 0
