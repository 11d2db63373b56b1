"""Indexes of many tars in a remote folder: what a machine copies, time to open, random access.

    python benchmarks/tar_index.py
    python benchmarks/tar_index.py --tars 100

All tars are links to one tar of 10,000 small samples, and are scanned once: 10 million samples in
1,000 tars by default. Tars and indexes are behind URLs of this machine (`file://`), so that a
request costs no latency: the table counts requests instead. `catalog` opens the tars by the file
that `coca data index` wrote for them, `each index` without that file.
"""

import argparse
import io
import os
import random
import tarfile
import tempfile
import time
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from options import run
from side_by_side import Rounds, disk_mb, emit, figure, in_turn, resident_mb, table, write_report

from coca.data.loading.mixture import Mixture
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from coca.data.storage.remote import RemoteFolder

tar_index: Any = import_module("coca.data.sources.tar.index")
"""Not typed, since its scans are replaced below."""

SAMPLES = 10_000
READS = 2_000
BATCH = 128
QUICK = {"tars": 50, "rounds": 1}
UNITS = {"*_mb": "MB", "open_s": "s", "*_ms": "ms", "requests*": "count"}
COLUMNS = {
    "copied_mb": ("copied, MB", 2),
    "open_s": ("opened, s", 2),
    "requests": ("requests to open", 0),
    "memory_mb": ("memory, MB", 1),
    "random_ms": ("a random sample, ms", 2),
    "ordered_ms": ("a sample in the order of a run, ms", 2),
    "requests_ordered": ("requests of it", 2),
}


def prepare(folder: Path, tars: int) -> None:
    """Write one tar, link it, and index all links in a remote folder."""
    (folder / "tars").mkdir()
    with tarfile.open(folder / "tars" / "000000.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for sample in range(SAMPLES):
            for suffix, content in (("jpg", b"an image"), ("txt", b"a caption")):
                entry = tarfile.TarInfo(f"{sample:09d}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    for number in range(1, tars):
        os.link(folder / "tars" / "000000.tar", folder / "tars" / f"{number:06d}.tar")
    scan = tar_index.scan_tar
    found = cache(lambda: scan((folder / "tars" / "000000.tar").open("rb"), "one"))
    tar_index.scan_tar = lambda *_, **options: found()
    tar_index.TARS_PER_PROCESS = tars + 1
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache of the first machine")
    paths = [f"file://{path}" for path in sorted((folder / "tars").iterdir())]
    for _ in tar_index.index_tars(paths, folder=f"file://{folder}/index"):
        pass


def contestant(arguments: argparse.Namespace) -> None:
    folder, requests = Path(arguments.folder), Counter[str]()
    for name in ("state", "read", "states"):
        _count(name, requests)
    with tempfile.TemporaryDirectory() as cache_folder:
        os.environ["XDG_CACHE_HOME"] = cache_folder
        config = ShardsConfig(path=f"file://{folder}/tars/*.tar", index_folder=arguments.indexes)
        before, start = resident_mb(), time.perf_counter()
        source = open_source(config)
        figures = {
            "open_s": time.perf_counter() - start,
            "memory_mb": resident_mb() - before,
            "requests": requests.total(),
            "copied_mb": disk_mb(Path(cache_folder)) + _catalog_mb(arguments.indexes),
        }
        rows = random.Random(0).sample(range(len(source)), READS)
        start = time.perf_counter()
        for row in rows:
            source.read(row)
        figures["random_ms"] = (time.perf_counter() - start) / READS * 1000
        mixture = Mixture([len(source)], [1], seed=0, block_sizes=[source.block_size])
        requests.clear()
        start, count = time.perf_counter(), 16 * BATCH
        for first in range(0, count, BATCH):
            source.read_many(mixture.draw(np.arange(first, first + BATCH)).position.tolist())
        figures["ordered_ms"] = (time.perf_counter() - start) / count * 1000
        figures["requests_ordered"] = requests.total() / count
    emit(figures)


def _count(name: str, requests: Counter[str]) -> None:
    original = getattr(RemoteFolder, name, None)
    if original is None:
        return

    def counted(self: RemoteFolder, *given: Any) -> Any:
        requests[name] += 1
        return original(self, *given)

    setattr(RemoteFolder, name, counted)


def _catalog_mb(url: str) -> float:
    catalogs = Path(url.removeprefix("file://")).glob("*.jsonl")
    return sum(path.stat().st_size for path in catalogs) / 1e6


def referee(arguments: argparse.Namespace) -> Rounds:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, arguments.tars)
        index_mb = disk_mb(folder / "index")
        bare = folder / "bare"
        bare.mkdir()
        for path in (folder / "index").glob("*.idx"):
            os.link(path, bare / path.name)
        names = {"catalog": folder / "index", "each index": bare}
        rounds = in_turn(
            {
                name: [f"--contestant={name}", f"--folder={folder}", f"--indexes=file://{place}"]
                for name, place in names.items()
            },
            rounds=arguments.rounds,
        )
    rows = [
        [name, *(figure(own, key).shown(digits) for key, (_, digits) in COLUMNS.items())]
        for name, own in rounds.items()
    ]
    count = arguments.tars * SAMPLES
    write_report(
        arguments,
        rounds,
        "tar-index",
        f"Indexes of {count:,} samples in {arguments.tars:,} tars",
        f"All indexes: {index_mb:.0f} MB, {index_mb * 1e6 / count:.1f} bytes per sample.",
        table(["", *(title for title, _ in COLUMNS.values())], rows),
        packages=("obstore",),
    )
    return rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tars", type=int, default=1000, help="tars of 10,000 samples each")
    parser.add_argument("--folder", help="used by the script itself")
    parser.add_argument("--indexes", help="used by the script itself")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
