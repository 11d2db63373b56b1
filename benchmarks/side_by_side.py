"""What every benchmark shares: contestants in turn, each in a process of its own, and the report.

A benchmark is one script with two lives. Called by hand it lists its contestants and lets them run
in turn; each contestant is the same script again, called with `--contestant NAME`, which measures
one thing and ends with `emit({...})`. Turns and not blocks, since a shared machine drifts.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
MARK = "figures: "

Figures = dict[str, float]
Rounds = dict[str, list[Figures]]


def emit(figures: Mapping[str, float]) -> None:
    """Hands a contestant's figures to the script that started it."""
    print(MARK + json.dumps(dict(figures)), flush=True)


def in_turn(
    contestants: Mapping[str, Sequence[str]],
    *,
    rounds: int,
    pythons: Mapping[str, str] | None = None,
) -> Rounds:
    """Runs each contestant once a round, in a fresh process, and gathers its figures by name.

    Args:
        contestants: By name, the arguments that this same script is called with.
        rounds: How often each of them runs.
        pythons: The interpreter of those that need an environment of their own.
    """
    pythons = pythons or {}
    gathered: Rounds = {name: [] for name in contestants}
    for turn in range(rounds):
        # The order turns round, so that none is always the one that follows the same other.
        order = list(contestants) if turn % 2 == 0 else list(reversed(contestants))
        for name in order:
            print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            python = pythons.get(name, sys.executable)
            gathered[name].append(_run([python, sys.argv[0], *contestants[name]]))
    return gathered


def _run(command: Sequence[str]) -> Figures:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)} gave no figures and ended with {done.returncode}")
    return json.loads(lines[-1].removeprefix(MARK))


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
        """As `2.31 (2.28 to 2.35)`."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def figure(rounds: Sequence[Figures], name: str) -> Spread:
    """The spread of one figure over the rounds."""
    return Spread.of([one[name] for one in rounds])


def ratio(over: Sequence[Figures], under: Sequence[Figures], name: str) -> Spread:
    """The spread of the quotient of two contestants, round by round."""
    return Spread.of([a[name] / b[name] for a, b in zip(over, under, strict=True)])


def peak_bytes() -> float:
    """The most memory that this process has held so far (resident set)."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def own_seconds() -> float:
    """Processor time of this process and of all below it, living or ended."""
    # Of each: its parent, and its ticks with those of its children that have ended.
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*/stat"):
        try:
            # Behind the name: state, parent, and further on user's and system's, own and ended.
            fields = process.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        number = int(process.parent.name)
        parents[number], ticks[number] = int(fields[1]), sum(map(int, fields[11:15]))
    below = 0
    for number in parents:
        # Workers may stand below a server that starts them.
        above = parents.get(number, 0)
        while above and above != os.getpid():
            above = parents.get(above, 0)
        below += ticks[number] if above else 0
    return sum(os.times()[:4]) + below / os.sysconf("SC_CLK_TCK")


def forget_peak() -> None:
    """Lets `peak_bytes` begin anew, where the system can; what was set up before is left out."""
    gc.collect()
    forget = Path("/proc/self/clear_refs")
    if forget.exists():
        forget.write_text("5", encoding="ascii")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are set to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Processor, cores and memory of this machine, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def versions(*packages: str) -> str:
    """The versions of packages, those that are missing left out."""
    known = []
    for package in packages:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join([f"Python {platform.python_version()}", *known])


def write_report(theme: str, title: str, *sections: str, packages: Sequence[str] = ()) -> Path:
    """Writes `results/<theme>_<machine>_<date>.md` and gives its path; the text is printed, too."""
    now = datetime.now(UTC)
    lead = (
        f"Machine: {machine()}. {versions(*packages)}. {now:%Y-%m-%d}.\n"
        f"Command: `python {' '.join([_relative(sys.argv[0]), *sys.argv[1:]])}`."
    )
    text = "\n\n".join([f"# {title}", lead, *sections]) + "\n"
    short = re.sub(r"[^a-z0-9]+", "-", _processor().lower()).strip("-")
    path = RESULTS / f"{theme}_{short}-{os.cpu_count()}-cores_{now:%Y-%m-%d}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {_relative(path)}", file=sys.stderr)
    return path


def main(
    parser: argparse.ArgumentParser,
    *,
    contestant: Callable[[argparse.Namespace], None],
    referee: Callable[[argparse.Namespace], None],
) -> None:
    """Runs the script in the one life or the other, as `--contestant` says."""
    parser.add_argument("--contestant", help="measure this one alone; used by the script itself")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default 3)")
    arguments = parser.parse_args()
    try:
        (contestant if arguments.contestant else referee)(arguments)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error.name} is not installed: .venv/bin/pip install -e '.[bench]' brings all peers"
        ) from error


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return re.sub(r"\((R|TM)\)|CPU|Processor|@.*", "", name).strip()


def _relative(path: str | Path) -> str:
    path = Path(path).resolve()
    root = RESULTS.parent.parent.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path.name)
