"""Interleaved runs of contestants, one process each, and the report about them.

A user starts a benchmark script without `--contestant`; it then runs its contestants in turn. Each
contestant is the same script, called with `--contestant NAME`: it measures one thing and ends with
`emit({...})`. Runs are interleaved, since the speed of a shared machine drifts. The options are in
`options.py`.
"""

import argparse
import gc
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
QUICK_RESULTS = Path(__file__).parents[1] / "runs" / "bench"
"""Reports of the quick mode, which are too rough to keep."""
MARK, UNAVAILABLE = "figures: ", "unavailable: "
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""Flags of the processor that decide about the speed of fp32, int8 and bf16."""

Figures = dict[str, float]


class Rounds(dict[str, list[Figures]]):
    """The figures of each round by contestant; `skipped` has the reason for each one left out."""

    def __init__(self, *pairs: Mapping[str, list[Figures]]) -> None:
        super().__init__(*pairs)
        self.skipped: dict[str, str] = {}


class Unavailable(Exception):  # noqa: N818
    """A peer, a server or data that a measurement needs are not on this machine."""


def print_unavailable(reason: str) -> None:
    """Report to the script that started this one why nothing was measured."""
    print(UNAVAILABLE + reason, flush=True)


def emit(figures: Mapping[str, float]) -> None:
    """Report a contestant's figures to the script that started it."""
    print(MARK + json.dumps(dict(figures)), flush=True)


def in_turn(
    contestants: Mapping[str, Sequence[str]],
    *,
    rounds: int,
    pythons: Mapping[str, str] | None = None,
) -> Rounds:
    """Run each contestant once a round, in a fresh process, and collect its figures by name.

    A contestant that reports that it is unavailable is left out of all rounds.

    Args:
        contestants: By name, the arguments that this same script is called with.
        rounds: The number of runs of each contestant.
        pythons: The interpreter of contestants that need an environment of their own.

    Raises:
        Unavailable: None of the contestants can run.
    """
    pythons = pythons or {}
    measured = Rounds({name: [] for name in contestants})
    for turn in range(rounds):
        # The order alternates, so that no contestant always follows the same other one.
        order = list(contestants) if turn % 2 == 0 else list(contestants)[::-1]
        for name in order:
            if name in measured.skipped:
                continue
            print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            python = pythons.get(name, sys.executable)
            try:
                measured[name].append(_run([python, sys.argv[0], *contestants[name]]))
            except Unavailable as error:
                print(f"skipped {name}: {error}", file=sys.stderr, flush=True)
                measured.skipped[name] = str(error)
                del measured[name]
    if not measured:
        raise Unavailable("; ".join(dict.fromkeys(measured.skipped.values())))
    return measured


def _run(command: Sequence[str]) -> Figures:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    except FileNotFoundError as error:
        raise Unavailable(f"{command[0]} does not exist") from error
    lines = done.stdout.splitlines()
    figures = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    reasons = [line.removeprefix(UNAVAILABLE) for line in lines if line.startswith(UNAVAILABLE)]
    if reasons:
        raise Unavailable(reasons[-1])
    if done.returncode or not figures:
        sys.exit(f"{' '.join(command)} printed no figures and ended with {done.returncode}")
    return json.loads(figures[-1])


@dataclass(frozen=True)
class Spread:
    """The median of several runs, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def shown(self, digits: int = 2) -> str:
        """Format as `2.31 (2.28 to 2.35)`."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def figure(rounds: Sequence[Figures], name: str) -> Spread:
    """Compute the spread of one figure over the rounds."""
    return Spread.of([one[name] for one in rounds])


def ratio(over: Sequence[Figures], under: Sequence[Figures], name: str) -> Spread:
    """Compute the spread of the quotient of two contestants, round by round."""
    return Spread.of([a[name] / b[name] for a, b in zip(over, under, strict=True)])


def peak_bytes() -> float:
    """Return the peak resident set size of this process, bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def resident_mb(process: int | str = "self", *, peak: bool = False) -> float:
    """Return the resident memory of a process, MB; that of memory-mapped files is included."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    field = "VmHWM:" if peak else "VmRSS:"
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def disk_mb(folder: Path) -> float:
    """Return the size of all files of a folder, MB."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files) / 1e6


def own_seconds() -> float:
    """Return the processor time of this process and all its descendants, seconds."""
    # By process id: the parent, and the ticks of the process and its ended children.
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name: state, parent, ..., user and system ticks, own and of ended children.
            fields = process.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        number = int(process.parent.name)
        parents[number], ticks[number] = int(fields[1]), sum(map(int, fields[11:15]))
    below = 0
    for number in parents:
        # Workers may be children of a server that starts them.
        above = parents.get(number, 0)
        while above and above != os.getpid():
            above = parents.get(above, 0)
        below += ticks[number] if above else 0
    return sum(os.times()[:4]) + below / os.sysconf("SC_CLK_TCK")


def forget_peak() -> None:
    """Reset the peak of `peak_bytes`, on systems that can; setup is then not counted."""
    gc.collect()
    forget = Path("/proc/self/clear_refs")
    if forget.exists():
        forget.write_text("5", encoding="ascii")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; all columns except the first are right-aligned."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Describe the processor, its vector instructions, cores and memory of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    known = [flag for flag in INSTRUCTIONS if flag in _processor_flags()]
    return f"{_processor()} ({', '.join(known)}), {os.cpu_count()} cores, {memory:.0f} GiB"


def versions(*packages: str) -> str:
    """List the versions of those packages that are installed."""
    known = []
    for package in packages:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join([f"Python {platform.python_version()}", *known])


def write_report(
    arguments: argparse.Namespace,
    rounds: Rounds,
    theme: str,
    title: str,
    *sections: str,
    packages: Sequence[str] = (),
) -> Path:
    """Write and print `results/<theme>_<machine>_<date>.md`, and return its path.

    A quick run writes to `runs/bench` instead.
    """
    now = datetime.now(UTC)
    # Absolute paths are those of one machine.
    options = [re.sub(r"(^|=)/.*/", r"\1", option) for option in sys.argv[1:]]
    lead = (
        f"Machine: {machine()}. {versions(*packages)}. {now:%Y-%m-%d}.\n"
        f"Command: `python {' '.join([_relative(sys.argv[0]), *options])}`."
    )
    notes = [f"Skipped {name}: {reason}." for name, reason in rounds.skipped.items()]
    if arguments.quick:
        notes.insert(0, "**Quick mode**: fewer rounds and smaller sizes; the figures are rough.")
    text = "\n\n".join([f"# {title}", lead, *notes, *sections]) + "\n"
    short = re.sub(r"[^a-z0-9]+", "-", _processor().lower()).strip("-")
    folder = QUICK_RESULTS if arguments.quick else RESULTS
    path = folder / f"{theme}_{short}-{os.cpu_count()}-cores_{now:%Y-%m-%d}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {_relative(path)}", file=sys.stderr)
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return re.sub(r"\((R|TM)\)|CPU|Processor|@.*", "", name).strip()


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


def _relative(path: str | Path) -> str:
    path = Path(path).resolve()
    root = RESULTS.parent.parent.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path.name)
