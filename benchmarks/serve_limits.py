"""Stalls, memory and dead time of `coca serve` under requests that are meant to harm it.

    python benchmarks/serve_limits.py
    python benchmarks/serve_limits.py --before ../old/src    compares with the source of a checkout

Each contestant starts `coca serve` with two keys on a collection of Milvus Lite, in a process of
its own, and measures on loopback sockets:

stall         longest answer of `/healthz`, asked on one connection all the time, and the median of
              another tenant's text queries: while eight requests have a filter of 8,000 signs,
              while 47 MB of `[],` come without a key, while a body has 300,000 unknown fields
memory        highest resident memory of the service and of its processes in all, while one and six
              images of 7,000 x 7,000 pixels are searched for
dead time     longest time without a new connection's answer, while 1,100 connections send half a
              header to a service with 1,024 descriptors, and afterwards
end           time from SIGTERM until the process ended, while a client sends a byte now and then
"""

import argparse
import base64
import http.client
import io
import json
import os
import resource
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from options import run
from PIL import Image
from serve_load import fill, serving, texts
from side_by_side import Rounds, emit, figure, in_turn, table, write_report

from coca.inference import loading

KEYS = {"key-of-anna": {"name": "anna"}, "key-of-bert": {"name": "bert"}}
ANNA, BERT = ({"Authorization": f"Bearer {key}"} for key in KEYS)
JSON = {"Content-Type": "application/json"}
HALF_HEADER = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
PATIENCE_S = 60.0
"""Longest time that is waited for an end or a first answer, in seconds."""

Address = tuple[str, int]

ROWS = {
    "filters: stall": "eight bad filters: longest answer of `/healthz`, s",
    "filters: search": "eight bad filters: median text query of another tenant, s",
    "no key: stall": "47 MB of `[],` without a key: longest answer of `/healthz`, s",
    "no key: memory": "47 MB of `[],` without a key: memory of the service, more than before, MB",
    "fields: stall": "300,000 unknown fields: longest answer of `/healthz`, s",
    "fields: message": "300,000 unknown fields: size of the answer, kB",
    "one image: service": "one image: memory of the service, more than before, MB",
    "one image: all": "one image: memory of all processes, more than before, MB",
    "six images: service": "six images: memory of the service, more than before, MB",
    "six images: all": "six images: memory of all processes, more than before, MB",
    "six images: seconds": "six images: time until all are answered, s",
    "six images: answered": "six images: number of results; the others get 422 or 503",
    "headers: dead": "1,100 half headers, 1,024 descriptors: longest time without an answer, s",
    "end": f"SIGTERM with a client that drips: time to the end, s (at most {PATIENCE_S:g})",
}


def request(
    address: Address, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, bytes]:
    """Send a request in a connection of its own; a connection that is closed early is status 0."""
    connection = http.client.HTTPConnection(*address, timeout=600)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def search(address: Address, body: object, key: dict[str, str]) -> tuple[int, bytes]:
    return request(address, "POST", "/v1/search", json.dumps(body).encode(), {**JSON, **key})


def at_once(count: int, work: Callable[[], object]) -> None:
    """Run some work in several threads, and wait for all."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def repeated(work: Callable[[], object], pause_s: float = 0.0) -> Iterator[list[float]]:
    """Repeat some work in a thread; yields the seconds of each run, complete after the block."""
    seconds: list[float] = []
    over = threading.Event()

    def measure() -> None:
        while not over.is_set():
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
            over.wait(pause_s)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        time.sleep(0.5)
        yield seconds
    finally:
        over.set()
        thread.join()


def asked(address: Address) -> Callable[[], None]:
    """Ask `/healthz` on one connection."""
    connection = http.client.HTTPConnection(*address, timeout=600)

    def ask() -> None:
        connection.request("GET", "/healthz")
        connection.getresponse().read()

    return ask


@dataclass
class Memory:
    """Highest resident memory of a process, and of it with its children, in MB (Linux)."""

    pid: int
    first: tuple[float, float] = (0.0, 0.0)
    peak: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def sample(self) -> None:
        for place, size in enumerate(self.now()):
            self.peak[place] = max(self.peak[place], size)

    def now(self) -> tuple[float, float]:
        own = resident_mb(self.pid)
        return own, own + sum(map(resident_mb, children(self.pid)))

    def grown(self) -> tuple[float, float]:
        return self.peak[0] - self.first[0], self.peak[1] - self.first[1]


@contextmanager
def watched(pid: int) -> Iterator[Memory]:
    """Sample the memory of a service every 5 ms."""
    memory = Memory(pid)
    memory.first = memory.now()
    with repeated(memory.sample, 0.005):
        yield memory


def resident_mb(pid: int) -> float:
    with suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return 0.0


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found |= set(map(int, (thread / "children").read_text().split()))
    return found


def large_image(side: int) -> str:
    """Encode a drawing with a white border as a data URI of about 200 kB."""
    image = Image.new("RGB", (side, side), "white")
    image.paste("red", (side // 8, side // 8, side * 7 // 8, side * 7 // 8))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def stalls(address: Address, pid: int, arguments: argparse.Namespace) -> dict[str, float]:
    figures: dict[str, float] = {}
    bad = {"text": "a car", "filter": "width > " + "-" * 8_000 + "1"}
    with repeated(asked(address), 0.005) as answers, ExitStack() as stack:
        query = {"text": texts(1)[0]}
        found = stack.enter_context(repeated(lambda: search(address, query, BERT)))
        for _ in range(arguments.repeats):
            at_once(8, lambda: search(address, bad, ANNA))
    figures["filters: stall"] = max(answers)
    figures["filters: search"] = statistics.median(found)
    nothing = b"[" + b"[]," * 15_700_000 + b"[]]"
    with repeated(asked(address), 0.005) as answers, watched(pid) as memory:
        request(address, "POST", "/v1/search", nothing, JSON)
    figures["no key: stall"], figures["no key: memory"] = max(answers), memory.grown()[0]
    many = json.dumps({f"field{number}": 0 for number in range(300_000)}).encode()
    with repeated(asked(address), 0.005) as answers:
        _, answer = request(address, "POST", "/v1/search", many, {**JSON, **ANNA})
    figures["fields: stall"], figures["fields: message"] = max(answers), len(answer) / 1e3
    return figures


def add_status(statuses: list[int], address: Address, body: object) -> None:
    statuses.append(search(address, body, ANNA)[0])


def image_memory(address: Address, pid: int, arguments: argparse.Namespace) -> dict[str, float]:
    figures: dict[str, float] = {}
    search(address, {"image": large_image(64)}, ANNA)
    body = {"image": large_image(arguments.side)}
    for name, count in (("one image", 1), ("six images", 6)):
        statuses: list[int] = []
        started = time.perf_counter()
        with watched(pid) as memory:
            at_once(count, partial(add_status, statuses, address, body))
        figures[f"{name}: answered"] = statuses.count(200)
        figures[f"{name}: service"], figures[f"{name}: all"] = memory.grown()
        figures[f"{name}: seconds"] = time.perf_counter() - started
    return figures


def dead_time(address: Address, arguments: argparse.Namespace) -> float:
    """Measure the longest time without an answer on a new connection."""
    longest, last = 0.0, time.perf_counter()

    def probe() -> None:
        nonlocal longest, last
        connection = http.client.HTTPConnection(*address, timeout=1)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/healthz")
            if connection.getresponse().read():
                longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
        connection.close()

    with repeated(probe, 0.05):
        last = time.perf_counter()
        with ExitStack() as stack:
            for _ in range(1_100):
                connection = stack.enter_context(socket.socket())
                connection.settimeout(1)
                with suppress(OSError):
                    connection.connect(address)
                    connection.sendall(HALF_HEADER)
            time.sleep(arguments.hold)
        closed = time.perf_counter()
        while last < closed and time.perf_counter() < closed + PATIENCE_S:
            time.sleep(0.05)
    return max(longest, time.perf_counter() - last)


def end_time(address: Address, pid: int) -> float:
    """Stop a service while a client sends a byte now and then."""
    with socket.create_connection(address) as connection:
        head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        lines = [f"{name}: {value}\r\n" for name, value in {**JSON, **ANNA}.items()]
        connection.sendall(f"{head}{''.join(lines)}\r\n".encode())
        time.sleep(1)
        os.kill(pid, 15)
        started = time.perf_counter()
        while (passed := time.perf_counter() - started) < PATIENCE_S:
            # The parent has not waited for it yet, so that it stays as a zombie.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
            with suppress(OSError):
                connection.sendall(b" ")
            time.sleep(0.2)
    return passed


def contestant(arguments: argparse.Namespace) -> None:
    model = loading.load(arguments.model, device="cpu")
    if arguments.contestant == "before":
        # The service runs the other source; this process measures by its own.
        os.environ["PYTHONPATH"] = str(Path(arguments.before).resolve())
    with tempfile.TemporaryDirectory() as folder:
        uri, keys = str(Path(folder) / "load.db"), Path(folder) / "keys.json"
        fill(uri, model, arguments.rows)
        keys.write_text(json.dumps(KEYS), encoding="utf-8")
        options = ("--model", arguments.model, "--device", "cpu", "--keys", str(keys))
        with serving(uri, *options) as (host, port, pid):
            address = (host, port)
            search(address, {"text": "a car"}, ANNA)
            figures = stalls(address, pid, arguments)
            figures |= image_memory(address, pid, arguments)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))
        with serving(uri, *options) as (host, port, pid):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4_096)), hard))
            figures["headers: dead"] = dead_time((host, port), arguments)
            os.kill(pid, 9)
        with serving(uri, *options) as (host, port, pid):
            figures["end"] = end_time((host, port), pid)
            os.kill(pid, 9)
    emit(figures)


def referee(arguments: argparse.Namespace) -> Rounds:
    names = ("model", "rows", "side", "repeats", "hold", "before")
    given = [f"--{name}={getattr(arguments, name)}" for name in names if getattr(arguments, name)]
    contestants = ["before", "now"] if arguments.before else ["now"]
    rounds = in_turn(
        {name: [*given, f"--contestant={name}"] for name in contestants}, rounds=arguments.rounds
    )
    rows = [
        [title, *(figure(runs, name).shown(2) for runs in rounds.values())]
        for name, title in ROWS.items()
    ]
    write_report(
        arguments,
        rounds,
        "serve-limits",
        "Requests that are meant to harm `coca serve`",
        f"Model `{arguments.model}`, {arguments.rows:,} rows in Milvus Lite, PNGs of "
        f"{arguments.side:,} x {arguments.side:,} pixels.",
        table(["", *rounds], rows),
        packages=["torch", "fastapi", "uvicorn", "mcp", "pymilvus", "milvus-lite"],
    )
    return rounds


QUICK = {"repeats": 1, "hold": 2.0, "side": 4_000, "rounds": 1}
UNITS = {
    "*stall": "s",
    "*: search": "s",
    "*seconds": "s",
    "*dead": "s",
    "end": "s",
    "*message": "kB",
    "*answered": "images",
    "*": "MB",
}

if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    options.add_argument("--rows", type=int, default=2_000, help="rows of the collection (2,000)")
    options.add_argument("--side", type=int, default=7_000, help="side of an image, pixels (7,000)")
    options.add_argument("--repeats", type=int, default=5, help="times eight bad filters (5)")
    options.add_argument("--hold", type=float, default=10.0, help="seconds of half headers (10)")
    options.add_argument("--before", help="`src` folder of another checkout to compare with")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS, rounds=1)
