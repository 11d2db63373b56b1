"""Bodies and images that take too long, sent to a real `coca serve` process with short limits."""

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from coca.predict.torch_predictor import TorchPredictor
from server_process import SEARCH_HEAD, ServerProcess, child_processes, data_uri, serving
from tiny_data import image_bytes

LIMITS = {"body_timeout_s": 1, "decode_timeout_s": 3}


@pytest.fixture(scope="module")
def process(
    uri: str, predictor: TorchPredictor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    arguments = ("--uri", uri, "--collection", "pictures", "--model", predictor.source)
    cache = tmp_path_factory.mktemp("cache")
    with serving(*arguments, cache=cache, defaults=LIMITS) as running:
        yield running


def test_a_body_that_drips_is_408(process: ServerProcess) -> None:
    with socket.create_connection(process.address, timeout=240) as connection:
        connection.sendall(SEARCH_HEAD + b"Content-Length: 1000000\r\n\r\n")
        connection.settimeout(0.3)
        received = b""
        for _ in range(300):
            try:
                received += connection.recv(65_536)
                break
            except TimeoutError:
                connection.sendall(b" ")
    assert received.startswith(b"HTTP/1.1 408"), received


def test_a_decoder_that_hangs_is_killed(process: ServerProcess) -> None:
    assert process.post("/v1/search", {"image": data_uri(image_bytes(1))}).status == 200
    hanging = child_processes(process.process.pid, "coca.server.images.decoding")
    for pid in hanging:
        os.kill(pid, signal.SIGSTOP)
    answer = process.post("/v1/search", {"image": data_uri(image_bytes(1))})
    assert (answer.status, answer.json()["error"]["code"]) == (422, "too_slow")
    for pid in hanging & child_processes(process.process.pid, "coca.server.images.decoding"):
        os.kill(pid, signal.SIGCONT)
    assert process.post("/v1/search", {"image": data_uri(image_bytes(1))}).status == 200
