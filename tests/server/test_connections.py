"""Clients that send or read too slowly, as real connections to a `coca serve` process."""

import asyncio
import resource
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from coca.predict.torch_predictor import TorchPredictor
from coca.server.connections import ConnectionLimits, limited_protocol
from server_process import SEARCH_HEAD, ServerProcess, data_uri, serving
from tiny_collection import write_collections

DESCRIPTORS = 512
HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
TIMES = {"header_timeout_s": 2, "body_timeout_s": 1000, "shutdown_timeout_s": 1}


def options(uri: str, predictor: TorchPredictor) -> tuple[str, ...]:
    return ("--uri", uri, "--collection", "pictures", "--model", predictor.source)


@pytest.fixture(scope="module")
def process(
    uri: str, predictor: TorchPredictor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A service with few descriptors; it closes half headers after two seconds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    try:
        cache = tmp_path_factory.mktemp("cache")
        with serving(*options(uri, predictor), cache=cache, defaults=TIMES) as running:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            yield running
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def own_uri(predictor: TorchPredictor, images: list[bytes], tmp_path: Path) -> str:
    """A collection of one test, since a service excludes other processes."""
    return write_collections(tmp_path, predictor, {"pictures": images})


def opened(process: ServerProcess, sent: bytes) -> socket.socket:
    connection = socket.create_connection(process.address, timeout=240)
    connection.sendall(sent)
    return connection


def ended(connection: socket.socket) -> bool:
    """Wait until the service closes a connection; return whether it sent nothing."""
    try:
        return not connection.recv(1)
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"G", HALF], ids=["nothing", "a letter", "half a header"])
def test_a_header_that_does_not_end_is_waited_for_a_while(
    process: ServerProcess, sent: bytes
) -> None:
    with opened(process, sent) as connection:
        assert ended(connection)


def test_a_second_header_that_does_not_end_is_waited_for_a_while(process: ServerProcess) -> None:
    with opened(process, HALF + b"\r\n" + HALF) as connection:
        received = b""
        while part := connection.recv(65_536):
            received += part
    assert received.count(b"HTTP/1.1 200") == 1


UNREAD = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
UPLOAD = SEARCH_HEAD + b"Content-Length: 9\r\n\r\n{"
STREAM = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "after"),
    [(HALF, b""), (UNREAD, b"x"), (UPLOAD, b""), (STREAM, b"")],
    ids=["half headers", "bodies after a 405", "uploads", "streams of events"],
)
def test_many_connections_of_one_client_shut_nobody_out(
    process: ServerProcess, sent: bytes, after: bytes
) -> None:
    with ExitStack() as stack:
        for number in range(DESCRIPTORS + 100):
            # The honest client has another address.
            connection = socket.create_connection(process.address, 240, ("127.0.0.2", 0))
            stack.enter_context(connection).sendall(sent)
            with suppress(ConnectionError):
                if after and connection.recv(65_536):
                    connection.sendall(after)
            if number % 50 == 0:
                assert process.get("/healthz").status == 200
        assert process.post("/v1/search", {"text": "a car"}).status == 200


def test_a_body_that_nobody_reads_ends_in_time(process: ServerProcess) -> None:
    with opened(process, UNREAD) as connection:
        received = b""
        while not received.endswith(b"}}"):
            received += connection.recv(65_536)
        assert received.startswith(b"HTTP/1.1 405")
        connection.sendall(b"x")
        assert ended(connection)


@pytest.mark.parametrize("path", [b"/v1/search", b"/healthz"], ids=["read", "not read"])
def test_a_body_of_chunks_of_one_byte_is_not_parsed(process: ServerProcess, path: bytes) -> None:
    head = SEARCH_HEAD.replace(b"/v1/search", path) + b"Transfer-Encoding: chunked\r\n\r\n"
    assert process.exchange(head + b"1\r\nx\r\n" * 2_000).count(b"HTTP/1.1 ") <= 1


def test_a_slow_body_may_take_longer_than_a_header(process: ServerProcess) -> None:
    body = b'{"text": "a car"}'
    with opened(process, SEARCH_HEAD + b"Content-Length: %d\r\n\r\n" % len(body)) as slow:
        with opened(process, HALF) as connection:
            assert ended(connection)
        slow.sendall(body)
        assert slow.recv(65_536).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_on_in_time_is_disconnected() -> None:
    async def closed() -> list[bool]:
        kind, (near, far) = limited_protocol(ConnectionLimits(60.0, 0.01, 1)), socket.socketpair()
        own = kind(Config(print), ServerState(), {})
        with far:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: own, near)
            own.pause_writing()
            own.resume_writing()
            await asyncio.sleep(0.1)
            before = own.transport.is_closing()
            own.pause_writing()
            await asyncio.sleep(0.1)
        return [before, own.transport.is_closing()]

    assert asyncio.run(closed()) == [False, True]


@pytest.mark.service
def test_a_client_that_drips_does_not_delay_the_end(
    own_uri: str, predictor: TorchPredictor, tmp_path: Path
) -> None:
    with serving(*options(own_uri, predictor), cache=tmp_path, defaults=TIMES) as process:
        head = SEARCH_HEAD + b"Content-Length: 1000000\r\n\r\n"
        with opened(process, head + b" ") as connection:
            assert process.get("/healthz").status == 200
            process.process.terminate()
            assert not drip(connection).startswith(b"HTTP/1.1 408")
        process.process.wait(timeout=60)


@pytest.mark.service
def test_requests_in_progress_at_the_end_are_answered(
    own_uri: str, predictor: TorchPredictor, tmp_path: Path, images: list[bytes]
) -> None:
    labels = [f"label {number}" for number in range(1_000)]
    templates = [f"template {number} of {{}}" for number in range(10)]
    body = {"image": data_uri(images[0]), "labels": labels, "templates": templates}
    times = {"shutdown_timeout_s": 6}
    with (
        serving(*options(own_uri, predictor), cache=tmp_path, defaults=times) as process,
        ThreadPoolExecutor(16) as pool,
    ):
        answers = [pool.submit(process.post, "/v1/classify", body) for _ in range(16)]
        while b'coca_waiting{kind="text"} 0.0' in process.get("/metrics").body:
            assert not all(answer.done() for answer in answers)
        process.process.terminate()
        for answer in answers:
            found = answer.result()
            assert found.status == 200 or (found.status, found.headers["retry-after"]) == (
                503,
                "10",
            ), found.body
        assert process.process.wait(timeout=60) == 0


def drip(connection: socket.socket) -> bytes:
    """Send a byte now and then until the service ends the connection; return what it sent."""
    received = b""
    connection.settimeout(0.2)
    with suppress(ConnectionError):
        while True:
            connection.sendall(b" ")
            with suppress(TimeoutError):
                part = connection.recv(65_536)
                received += part
                if not part:
                    break
    return received


@pytest.mark.service
def test_clients_that_leave_in_a_body_write_no_traceback(
    own_uri: str, predictor: TorchPredictor, tmp_path: Path
) -> None:
    with serving(*options(own_uri, predictor), cache=tmp_path) as running:
        for path in (b"/v1/search", b"/mcp") * 3:
            with opened(running, b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n") as leaving:
                leaving.sendall(b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
        assert running.get("/healthz").status == 200
        running.process.send_signal(signal.SIGTERM)
        output = running.process.communicate(timeout=60)
    assert "Traceback" not in "".join(str(part) for part in output)
