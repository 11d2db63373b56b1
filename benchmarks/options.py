"""Options and JSON output that all benchmarks share.

A benchmark declares its own options on a parser, and gives `run` the defaults of its quick mode and
the units of its figures. Each program has these options:

    --quick       rough figures in at most three minutes on two cores: smaller sizes, fewer rounds;
                  an option that is given takes precedence over the defaults of the quick mode
    --json        end stdout with one line of JSON: name, machine, options, figures
    --rounds      runs of each contestant
    --contestant  measure one contestant; used by the script itself
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from side_by_side import Rounds, Spread, Unavailable, machine, print_unavailable

PEERS = {
    *("faiss", "hnswlib", "lancedb", "sqlite_vec", "usearch"),
    *("bm25s", "tantivy", "open_clip", "open_clip_train", "webdataset"),
    *("apsw", "milvus_lite", "pyarrow", "pymilvus", "threadpoolctl"),
}
"""Modules of optional packages; a benchmark that lacks one is unavailable, not broken."""
EXIT_UNAVAILABLE = 69
"""Exit status of a benchmark whose peer or data are not installed (EX_UNAVAILABLE)."""

Units = Mapping[str, str]
"""By pattern of a figure's name, its unit; a name that no pattern matches is not reported."""


def parse(
    parser: argparse.ArgumentParser, *, quick: Mapping[str, Any], rounds: int = 3
) -> argparse.Namespace:
    """Add the shared options and parse the command line.

    Args:
        parser: The parser with the benchmark's own options.
        quick: The defaults of the quick mode, by name of the option.
        rounds: Default of `--rounds` without `--quick`.
    """
    smaller = ", ".join(f"{name} {value}" for name, value in quick.items())
    parser.add_argument("--quick", action="store_true", help=f"rough figures; defaults: {smaller}")
    parser.add_argument("--json", action="store_true", help="last line of stdout is JSON")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"runs of each ({rounds})")
    parser.add_argument("--contestant", help="measure this one alone; used by the script itself")
    if unknown := set(quick) - {action.dest for action in parser._actions}:
        raise ValueError(f"quick names options that do not exist: {sorted(unknown)}")
    arguments = parser.parse_args()
    if arguments.quick:
        parser.set_defaults(**quick)
        arguments = parser.parse_args()
    return arguments


def run(
    parser: argparse.ArgumentParser,
    *,
    referee: Callable[[argparse.Namespace], Rounds],
    contestant: Callable[[argparse.Namespace], None] | None = None,
    quick: Mapping[str, Any],
    units: Units,
    rounds: int = 3,
) -> None:
    """Run a benchmark: one contestant, or the referee that starts all of them.

    Args:
        parser: The parser with the benchmark's own options.
        referee: Runs the contestants, writes the report, returns the figures.
        contestant: Measures one contestant; None if the referee measures by itself.
        quick: The defaults of the quick mode, by name of the option.
        units: The unit of each figure, by pattern of its name.
        rounds: Default of `--rounds` without `--quick`.
    """
    arguments = parse(parser, quick=quick, rounds=rounds)
    try:
        if contestant is not None and arguments.contestant:
            contestant(arguments)
            return
        measured = referee(arguments)
    except (ModuleNotFoundError, Unavailable) as error:
        reason = str(error)
        if isinstance(error, ModuleNotFoundError):
            if (error.name or "").partition(".")[0] not in PEERS:
                raise
            reason = (
                f"{error.name} is not installed: .venv/bin/pip install -e '.[bench]' installs peers"
            )
        print_unavailable(reason)
        if arguments.json and not arguments.contestant:
            print(json_line(arguments, Rounds(), units, unavailable=reason))
        sys.exit(EXIT_UNAVAILABLE)
    if arguments.json:
        print(json_line(arguments, measured, units), flush=True)


def json_line(
    arguments: argparse.Namespace, rounds: Rounds, units: Units, *, unavailable: str = ""
) -> str:
    """Describe a run in one line of JSON.

    Keys: `name` of the script, `machine`, `options`, `figures` (by "contestant: figure", each with
    `median`, `low`, `high`, `unit`), `skipped` (reason by contestant that is not installed), and
    `unavailable` (the reason why nothing was measured, or "").
    """
    hidden = ("json", "contestant")
    options = {name: value for name, value in vars(arguments).items() if name not in hidden}
    record = {
        "name": Path(sys.argv[0]).stem,
        "machine": machine(),
        "options": options,
        "figures": summarize(rounds, units),
        "skipped": rounds.skipped,
        "unavailable": unavailable,
    }
    return json.dumps(record, default=str)


def summarize(rounds: Rounds, units: Units) -> dict[str, dict[str, float | str]]:
    """Compute the median, lowest and highest value of each figure that has a unit."""
    found: dict[str, dict[str, float | str]] = {}
    for contestant, runs in rounds.items():
        for name in runs[0]:
            unit = next((units[glob] for glob in units if fnmatchcase(name, glob)), None)
            if unit is not None:
                spread = Spread.of([one[name] for one in runs])
                found[f"{contestant}: {name}"] = {**vars(spread), "unit": unit}
    return found
