"""Errors, lost writes and search latency under concurrent writes, over minutes.

    python benchmarks/mixed_load.py --minutes 10
    python benchmarks/mixed_load.py --minutes 1 --of lite

Two threads insert, update and delete 20 rows each half second and read them back. Two threads
search five times a second and check every score. At the end, and after it is opened again, the
collection is compared with all acknowledged writes (tests/support/concurrent_load.py).
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from options import run
from side_by_side import Figures, Rounds, emit, in_turn, table, write_report
from vector_stores import milvus_server

from coca.search.milvus.collection import Collection

DIM = 512

NAMES = {"lite": "Milvus Lite 3.2.2", "server": "Milvus server 2.3.5"}


def measured(uri: str, seconds: float) -> Figures:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from concurrent_load import run_load

    load = run_load(
        lambda: Collection.open(uri, "load", embed_dim=DIM, fingerprint="load", create=True),
        seconds=seconds,
    )
    for fault in load.faults:
        print(fault, file=sys.stderr)
    figures: Figures = {
        "written": load.written,
        "removed": load.removed,
        "kept": load.kept,
        "searches": len(load.search_s),
        "faults": len(load.faults),
    }
    taken_ms = [1e3 * taken_s for _, taken_s in sorted(load.search_s)]
    if not taken_ms:
        raise SystemExit("no search succeeded; raise --minutes")
    # By count: on a busy machine no search may begin in the last tenth of the time.
    tenth = max(len(taken_ms) // 10, 1)
    for part, taken in {"first": taken_ms[:tenth], "last": taken_ms[-tenth:]}.items():
        for percent in (50, 95, 99):
            figures[f"{part} p{percent}"] = float(np.percentile(taken, percent))
    return figures


QUICK = {"minutes": 1.0}
UNITS = {"faults": "errors", "* p*": "ms"}


def contestant(arguments: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="coca-load-", dir=arguments.work))
    try:
        if arguments.contestant == "lite":
            emit(measured(str(folder / "load.db"), 60 * arguments.minutes))
        else:
            with milvus_server(folder) as server:
                emit(measured(server.uri, 60 * arguments.minutes))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def referee(arguments: argparse.Namespace) -> Rounds:
    stores = arguments.of.split(",")
    shared = [f"--minutes={arguments.minutes}", f"--work={arguments.work}"]
    rounds = in_turn({store: [*shared, f"--contestant={store}"] for store in stores}, rounds=1)
    own = {store: runs[0] for store, runs in rounds.items()}
    counts = ["written", "removed", "kept", "searches", "faults"]
    columns = [f"{part} p{percent}" for part in ("first", "last") for percent in (50, 95, 99)]
    write_report(
        arguments,
        rounds,
        "mixed-load",
        f"Search under concurrent writes, {arguments.minutes:g} minutes",
        f"Two threads write 20 rows of {DIM} numbers each half second, two search five times a "
        "second. Faults: errors, lost or stale writes, wrong scores.",
        table(
            ["", "rows written", "removed", "left", "searches", "faults"],
            [[NAMES[one], *(f"{own[one][what]:,.0f}" for what in counts)] for one in own],
        ),
        "Latency of a search in ms, of the first and of the last tenth of the searches:",
        table(
            ["", *columns],
            [[NAMES[one], *(f"{own[one][what]:.0f}" for what in columns)] for one in own],
        ),
        packages=["pymilvus", "milvus-lite", "numpy"],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    options.add_argument("--of", default=",".join(NAMES), help="stores")
    options.add_argument("--work", default=tempfile.gettempdir(), help="where stores are kept")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS, rounds=1)
