"""Run every benchmark, one after another, and write one table of their figures.

    python benchmarks/run_all.py --quick
    python benchmarks/run_all.py --quick --only loader search

The table is `runs/bench/table.md`. A benchmark whose peer or data are not installed has a row with
the reason. A benchmark that fails has one as well; the others still run, and the exit status is 1.
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from options import EXIT_UNAVAILABLE
from side_by_side import QUICK_RESULTS, machine, table

FOLDER = Path(__file__).parent
COLUMNS = ("benchmark", "figure", "median", "lowest", "highest", "unit")


def programs() -> list[str]:
    """List the scripts of this folder that measure something."""
    known = (path for path in FOLDER.glob("*.py") if path.resolve() != Path(__file__).resolve())
    return sorted(path.stem for path in known if "\n    run(" in path.read_text(encoding="utf-8"))


def measure(name: str, *, quick: bool, limit_s: float) -> dict[str, Any]:
    """Run one benchmark and return its record, with `error`, `seconds` and `processor_s`."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--json"]
    begun, used = time.monotonic(), processor_s()
    # A group of its own, so that a stop reaches the contestants.
    process = subprocess.Popen(
        [*command, *(["--quick"] if quick else [])],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s if quick else None)
    except subprocess.TimeoutExpired:
        return {"name": name, "error": f"stopped after {limit_s:.0f} s"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    times = {"seconds": time.monotonic() - begun, "processor_s": processor_s() - used}
    lines = output.splitlines()
    if process.returncode not in (0, EXIT_UNAVAILABLE) or not lines:
        return {"name": name, **times, "error": f"exit status {process.returncode}"}
    return {**json.loads(lines[-1]), **times, "error": ""}


def processor_s() -> float:
    """Return the processor time of all ended children of this process, seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rows_of(record: dict[str, Any]) -> list[Sequence[str]]:
    """Format a benchmark's record as rows of the table."""
    name = record["name"]
    if record["error"]:
        return [(name, f"failed: {record['error']}", "", "", "", "")]
    if record["unavailable"]:
        return [(name, f"not measured: {record['unavailable']}", "", "", "", "")]
    times = {"seconds": "wall time", "processor_s": "processor time"}
    rows: list[Sequence[str]] = [
        (name, f"{label} of the benchmark", f"{record[part]:.0f}", "", "", "s")
        for part, label in times.items()
    ]
    rows += [
        (name, label, *(f"{one[part]:.4g}" for part in ("median", "low", "high")), one["unit"])
        for label, one in record["figures"].items()
    ]
    rows += [
        (name, f"{contestant}: skipped, {reason}", "", "", "", "")
        for contestant, reason in record["skipped"].items()
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="rough figures, minutes for each")
    parser.add_argument("--json", action="store_true", help="last line of stdout is JSON")
    parser.add_argument("--only", nargs="+", choices=programs(), default=programs(), help="names")
    parser.add_argument(
        "--limit", type=float, default=1800, help="wall time of a quick benchmark, s"
    )
    arguments = parser.parse_args()
    records, rows = [], []
    for name in arguments.only:
        print(f"benchmark {name}", file=sys.stderr, flush=True)
        record = measure(name, quick=arguments.quick, limit_s=arguments.limit)
        records.append(record)
        rows += rows_of(record)
    quick = "Quick mode: fewer rounds and smaller sizes; the figures are rough."
    lead = f"Machine: {machine()}.{' ' + quick if arguments.quick else ''}"
    text = f"# Benchmarks\n\n{lead}\n\n{table(COLUMNS, rows)}\n"
    QUICK_RESULTS.mkdir(parents=True, exist_ok=True)
    (QUICK_RESULTS / "table.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {QUICK_RESULTS / 'table.md'}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"name": "run_all", "machine": machine(), "benchmarks": records}))
    sys.exit(1 if any(record["error"] for record in records) else 0)


if __name__ == "__main__":
    main()
