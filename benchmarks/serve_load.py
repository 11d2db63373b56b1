"""Text queries per second of `coca serve` with and without batching, and its overhead.

    python benchmarks/serve_load.py --clients 32 --queries 2000

Each contestant fills a collection of a SQLite file with random vectors, and starts `coca serve` on
it in a process of its own. Clients are threads with one connection each, which send the next query
when the last one is answered. `batching` has the default batches, `single` has `--max-batch 1`.

Before that, one client sends its queries one after the other, and `SearchEngine` runs the same
queries in process, on the same collection. Their medians differ by the overhead of the service.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from options import run
from side_by_side import Rounds, emit, figure, in_turn, ratio, table, write_report

from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.search.query.engine import SearchEngine
from coca.search.records import Record
from coca.search.stores import open_collection
from coca.workflows.collections.collection_model import lasting_name

BATCHES = {"batching": 32, "single": 1}
ROUTES = {"search": "/v1/search", "embed": "/v1/embeddings"}
ALONE = {"engine": "`SearchEngine`", "one client": "service", "overhead": "overhead"}
ALONE_FIGURES = ("p50", "processor ms")
ADJECTIVES = ("red", "small", "old", "wooden", "happy", "wet", "striped", "broken")
NOUNS = ("car", "dog", "house", "tree", "boat", "bird", "cup", "street", "horse", "lamp")


def texts(count: int) -> list[str]:
    """Different queries of five to eight words."""
    return [
        f"a {ADJECTIVES[n % 8]} {NOUNS[n % 10]} next to a {ADJECTIVES[n // 8 % 8]} "
        f"{NOUNS[n // 80 % 10]}"
        for n in range(count)
    ]


def fill(uri: str, model: TorchPredictor, rows: int) -> None:
    """Store random unit vectors."""
    vectors = np.random.default_rng(0).standard_normal((rows, model.embed_dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with open_collection(
        uri,
        "pictures",
        embed_dim=model.embed_dim,
        fingerprint=model.fingerprint,
        model=lasting_name(model),
        create=True,
    ) as collection:
        for start in range(0, rows, 1_000):
            collection.upsert(
                Record(id=f"{row:032x}", path="", vector=vectors[row])
                for row in range(start, min(rows, start + 1_000))
            )


@contextmanager
def serving(uri: str, *options: str) -> Iterator[tuple[str, int, int]]:
    """Run `coca serve`; yield host, port and process id."""
    command = [sys.executable, "-m", "coca", "serve", "--port", "0", "--uri", uri]
    with subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"http://([\d.]+):(\d+)", line):
                    # A full pipe would stop the service where it logs.
                    threading.Thread(target=process.stdout.read, daemon=True).start()
                    yield found[1], int(found[2]), process.pid
                    return
            sys.exit("coca serve ended early")
        finally:
            process.terminate()


def load(address: tuple[str, int], route: str, queries: Sequence[str], clients: int) -> list[float]:
    """Send queries from several clients, and return the latencies in seconds."""
    waiting = iter(queries)
    lock = threading.Lock()
    latencies: list[float] = []

    def work() -> None:
        connection = http.client.HTTPConnection(*address, timeout=600)
        own: list[float] = []
        while True:
            with lock:
                text = next(waiting, None)
            if text is None:
                break
            body = {"text": text, "limit": 10} if route == ROUTES["search"] else {"input": text}
            started = time.perf_counter()
            connection.request(
                "POST", route, json.dumps(body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise RuntimeError(content[:500])
            own.append(time.perf_counter() - started)
        connection.close()
        with lock:
            latencies.extend(own)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(latencies) != len(queries):
        raise RuntimeError(f"{len(latencies)} of {len(queries)} queries were answered")
    return latencies


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process, in seconds (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def contestant(arguments: argparse.Namespace) -> None:
    model = load_coca(arguments.model, device="cpu")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        uri = str(Path(folder) / "load.db")
        fill(uri, model, arguments.rows)
        alone = texts(arguments.alone)
        with open_collection(uri, "pictures") as collection:
            engine = SearchEngine(model, collection)
            engine.search(alone[0], limit=10)
            own, used = [], time.process_time()
            for text in alone:
                started = time.perf_counter()
                engine.search(text, limit=10)
                own.append(time.perf_counter() - started)
            figures["engine processor ms"] = 1e3 * (time.process_time() - used) / len(own)
        options = ("--model", arguments.model, "--device", "cpu")
        batch = str(BATCHES[arguments.contestant])
        with serving(uri, *options, "--max-batch", batch) as (host, port, pid):
            address = (host, port)
            load(address, ROUTES["search"], alone[:8], 4)
            used = processor_seconds(pid)
            one = load(address, ROUTES["search"], alone, 1)
            used = processor_seconds(pid) - used
            figures["one client processor ms"] = 1e3 * used / len(one)
            figures["engine p50"] = 1e3 * statistics.median(own)
            figures["one client p50"] = 1e3 * statistics.median(one)
            for one_figure in ALONE_FIGURES:
                apart = figures[f"one client {one_figure}"] - figures[f"engine {one_figure}"]
                figures[f"overhead {one_figure}"] = apart
            for name, route in ROUTES.items():
                used, started = processor_seconds(pid), time.perf_counter()
                found = load(address, route, texts(arguments.queries), arguments.clients)
                seconds = time.perf_counter() - started
                used = processor_seconds(pid) - used
                p50, p99 = np.percentile(found, (50, 99))
                figures[f"{name} per second"] = len(found) / seconds
                figures[f"{name} processor ms"] = 1e3 * used / len(found)
                figures[f"{name} p50"], figures[f"{name} p99"] = 1e3 * p50, 1e3 * p99
    emit(figures)


def referee(arguments: argparse.Namespace) -> Rounds:
    options = ("model", "rows", "queries", "alone", "clients")
    shared = [f"--{name}={getattr(arguments, name)}" for name in options]
    rounds = in_turn(
        {name: [*shared, f"--contestant={name}"] for name in BATCHES}, rounds=arguments.rounds
    )
    columns = ["per second", "processor ms", "p50", "p99"]
    sections = []
    for name, route in ROUTES.items():
        rows = [
            [one, *(figure(runs, f"{name} {column}").shown(1) for column in columns)]
            for one, runs in rounds.items()
        ]
        faster = ratio(rounds["batching"], rounds["single"], f"{name} per second").shown(2)
        cheaper = ratio(rounds["single"], rounds["batching"], f"{name} processor ms").shown(2)
        sections.append(
            f"`{route}`: {faster} times as many queries a second with batching, "
            f"{cheaper} times the processor time a query without.\n\n"
            + table(["", "queries per second", "processor ms a query", "p50, ms", "p99, ms"], rows)
        )
    everyone = [run for runs in rounds.values() for run in runs]
    write_report(
        arguments,
        rounds,
        "serve-load",
        f"Text queries to `coca serve` by {arguments.clients} clients",
        f"Model `{arguments.model}`, {arguments.rows:,} rows in a SQLite file, "
        f"{arguments.queries:,} queries a round.",
        *sections,
        "One client, with the figures of both contestants:",
        table(
            ["", "p50, ms", "processor ms a query"],
            [
                [name, *(figure(everyone, f"{key} {one}").shown(1) for one in ALONE_FIGURES)]
                for key, name in ALONE.items()
            ],
        ),
        packages=["torch", "fastapi", "uvicorn"],
    )
    return rounds


QUICK = {"queries": 200, "alone": 30, "rounds": 1}
UNITS = {"*per second": "queries/s", "*processor ms": "ms", "*p50": "ms", "*p99": "ms"}

if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    options.add_argument("--rows", type=int, default=2_000, help="rows of the collection (2,000)")
    options.add_argument("--queries", type=int, default=1_000, help="queries a round (1,000)")
    options.add_argument("--alone", type=int, default=100, help="queries of one client (100)")
    options.add_argument("--clients", type=int, default=32, help="concurrent clients (32)")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
