import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from coca.search.milvus import turns
from coca.search.milvus.connection import Connection, capabilities_of
from coca.search.milvus.turns import last_write, take_turn

CALLS_S = 0.1
CLIENTS, WRITES = 6, 6


class Properties(Connection):
    """Properties of a collection, as clients of a server see them: read and written as a whole."""

    def __init__(self, slowest_s: float) -> None:
        self.uri, self.timeout_s = "http://milvus", 60.0
        self.capabilities = capabilities_of("2.6.4")
        self._slowest_s, self._lock = slowest_s, threading.Lock()
        self._values: dict[str, str] = {}

    def call(self, name: str, *arguments: Any, doing: str = "", **options: Any) -> Any:
        """Read the properties at some time of a call, or write those given after the name."""
        before_s = random.uniform(0, self._slowest_s)
        time.sleep(before_s)
        with self._lock:
            self._values |= options.get("properties", {})
            answer = {"properties": dict(self._values)}
        time.sleep(random.uniform(0, self._slowest_s - before_s))
        return answer


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_one_client_at_a_time_has_a_turn_of_any_length(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(turns, "_CALLS_S", CALLS_S)
    random.seed(seed)
    connection: Any = Properties(CALLS_S / 8)
    inside, most, numbers = 0, 0, list[int]()

    def write() -> None:
        nonlocal inside, most
        for _ in range(WRITES):
            with take_turn(connection, "pictures") as turn:
                inside += 1
                most = max(most, inside)
                numbers.append(turn.number)
                # Longer than the longest time of a few calls.
                time.sleep(random.choice((0, 2.5 * CALLS_S)))
                inside -= 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        for future in [pool.submit(write) for _ in range(CLIENTS)]:
            future.result()
    assert most == 1
    assert numbers == sorted(set(numbers))
    assert len(numbers) == CLIENTS * WRITES
    assert last_write(connection, "pictures") == numbers[-1]


def test_others_take_over_from_a_client_that_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_CALLS_S", CALLS_S)
    monkeypatch.setattr(turns, "_LEASE_S", 0.5)
    connection: Any = Properties(0.001)
    with take_turn(connection, "pictures") as first:
        pass
    killed = take_turn(connection, "pictures")
    number = killed.__enter__().number
    started_s = time.monotonic()
    with take_turn(connection, "pictures") as second:
        assert time.monotonic() - started_s >= 0.5
        # The killed client may have written.
        assert first.number < number < second.number
    started_s = time.monotonic()
    with take_turn(connection, "pictures"):
        assert time.monotonic() - started_s < 0.5
