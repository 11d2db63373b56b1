"""Opening tar shards behind a web server: the first index, and a start with it.

    python benchmarks/remote_shards.py --shards 1000 --samples 10000

A server in a process of its own answers range requests for `--shards` names with the same synthetic
tar. Each measurement is a process of its own with an empty cache, except `again`:

index   `coca data index` of all shards into a folder, with a process for each core
start   a machine with an empty cache opens the source by this index and reads a sample
again   the same machine opens it once more
"""

import argparse
import io
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from options import run
from side_by_side import Rounds, figure, table, write_report

START = """
import sys, time
from coca.core.config.frozen_config import load_config
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
source = open_source(load_config(ShardsConfig, {"path": sys.argv[1], "index_folder": sys.argv[2]}))
print(len(source), source.read(len(source) // 2).key)
"""
NAMES = {
    "index": "first index",
    "start": "start with the index, empty cache",
    "again": "start again on the same machine",
}
QUICK = {"shards": 20, "samples": 1000, "rounds": 1}
UNITS = {"seconds": "s", "processor_s": "s"}


def synthetic_tar(samples: int, image_bytes: int) -> bytes:
    """Write a tar of samples with an image of noise, and a caption."""
    noise = np.random.default_rng(0).bytes(image_bytes)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(samples):
            for suffix, content in (("jpg", noise), ("txt", b"a dog on a beach")):
                member = tarfile.TarInfo(f"{number:09}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def serve(content: bytes, ready: Connection) -> None:
    """Answer range requests for any path with parts of the same bytes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = map(int, asked.groups()) if asked else (0, len(content) - 1)
            part = memoryview(content)[first : last + 1]
            self.send_response(206 if asked else 200)
            self._headers(len(part))
            if asked:
                end = first + len(part) - 1
                self.send_header("Content-Range", f"bytes {first}-{end}/{len(content)}")
            self.end_headers()
            self.wfile.write(part)

        def do_HEAD(self) -> None:
            self.send_response(200)
            self._headers(len(content))
            self.end_headers()

        def _headers(self, length: int) -> None:
            self.send_header("Content-Length", str(length))
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Sun, 01 Nov 2026 00:00:00 GMT")
            self.send_header("Accept-Ranges", "bytes")

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def served(content: bytes) -> Iterator[int]:
    """Run the server in a process of its own and yield its port."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(content, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def timed(command: list[str], cache: Path) -> tuple[dict[str, float], str]:
    """Run a command with a cache of its own; return its figures and its output."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - begun, "processor_s": used}, done.stdout


def referee(arguments: argparse.Namespace) -> Rounds:
    content = synthetic_tar(arguments.samples, arguments.image_bytes)
    total = len(content) * arguments.shards / 1e9
    rounds = Rounds({name: [] for name in NAMES})
    with served(content) as port:
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                pattern = f"http://127.0.0.1:{port}/{{00000..{arguments.shards - 1:05}}}.tar"
                index, caches = str(folder / "index"), [folder / "first", folder / "second"]
                command = [sys.executable, "-m", "coca", "data", "index", pattern]
                figures, _ = timed([*command, "--index-folder", index], caches[0])
                rounds["index"].append(figures)
                for which in ("start", "again"):
                    figures, output = timed(
                        [sys.executable, "-c", START, pattern, index], caches[1]
                    )
                    assert int(output.split()[0]) == arguments.shards * arguments.samples, output
                    rounds[which].append(figures)
                print(json.dumps(rounds), file=sys.stderr)
    rows = [
        [NAMES[name], figure(own, "seconds").shown(1), figure(own, "processor_s").shown(1)]
        for name, own in rounds.items()
    ]
    speed = total * 1000 / figure(rounds["index"], "seconds").median
    write_report(
        arguments,
        rounds,
        f"remote_shards_{arguments.shards}",
        f"{arguments.shards:,} shards of {arguments.samples:,} samples behind a web server",
        table(["", "seconds", "processor seconds"], rows),
        f"The shards have {total:.1f} GB, {arguments.image_bytes:,} bytes an image; the index "
        f"read {speed:.0f} MB/s. The server runs on the same {os.cpu_count()} cores.",
        packages=("obstore",),
    )
    return rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=1000, help="number (default 1000)")
    parser.add_argument("--samples", type=int, default=10_000, help="of a shard (default 10000)")
    parser.add_argument("--image-bytes", type=int, default=2000, help="of an image (default 2000)")
    run(parser, referee=referee, quick=QUICK, units=UNITS)
