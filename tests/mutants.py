"""Change single points of the source, one at a time, and count which changes a test notices.

    python tests/mutants.py [--points 120] [--seed 0] [--minutes 60]
    python tests/mutants.py --report benchmarks/results/mutants.md

Points are drawn from all comparisons, conditions, operations and numbers of `src/coca`, without the
experimental parts. A point is changed in a copy of the tree, and tests run until one fails: light
tests of the files that name or mirror the module, light tests of its package, then heavy tests of
those files. The failing test must pass without the change. Results are appended to
runs/mutants/SEED.jsonl, and a later run continues there; a point whose module has changed is
decided again. Changes that mean the same as before (equivalent mutants) count as survivors.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = Path("src/coca")
LEFT_OUT = (Path("experimental"), Path("release/adapters"))
"""Packages whose tests need other libraries."""
NOT_HERE = "not (milvus or gpu or page or experimental or export)"
HEAVY = "slow or distributed or service"
LIGHT = f"{NOT_HERE} and not ({HEAVY})"
LIMIT_S = 600
"""Longest run of the tests of a package."""
COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,  # codespell:ignore notin
    ast.NotIn: ast.In,  # codespell:ignore notin
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True)
class Point:
    """A place of a module, and what is written there instead."""

    path: str
    """Path of the module in the clone."""
    line: int
    start: int
    """First byte of the replaced expression in the module."""
    end: int
    before: str
    after: str
    digest: str
    """Digest of the module."""


def changed(node: ast.AST) -> ast.AST | None:
    """Return a changed copy of an expression; None: it is not a point."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[op]) if type(op) in COMPARED:
            new.ops = [COMPARED[type(op)]()]
        case ast.BoolOp(op=op):
            new.op = ast.Or() if isinstance(op, ast.And) else ast.And()
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return operand
        case ast.BinOp(op=op, left=left, right=right) if type(op) in OPERATED:
            # Texts and types are joined by the same signs.
            if any(isinstance(it, ast.JoinedStr | ast.List | ast.Tuple) for it in (left, right)):
                return None
            if any(isinstance(getattr(it, "value", None), str) for it in (left, right)):
                return None
            new.op = OPERATED[type(op)]()
        case ast.IfExp(test=test):
            new.test = ast.UnaryOp(ast.Not(), test)
        case ast.Constant(value=bool(value)):
            new.value = not value
        case ast.Constant(value=int(value) | float(value)):
            new.value = value + 1
        case _:
            return None
    return new


def points_of(path: Path) -> Iterator[Point]:
    """Yield the points of a module, without annotations and decorators."""
    content = path.read_bytes()
    tree = ast.parse(content)
    starts = [0, *(match.end() for match in re.finditer(rb"\n", content))]
    ignored = set()
    for node in ast.walk(tree):
        parts = [getattr(node, name, None) for name in ("annotation", "returns")]
        parts += getattr(node, "decorator_list", [])
        # The value of a mark such as `Literal[1]`, and the text of an error.
        parts += [node.slice] if isinstance(node, ast.Subscript) else []
        parts += [node] if isinstance(node, ast.JoinedStr) else []
        ignored |= {id(inner) for part in parts if part for inner in ast.walk(part)}
    digest = hashlib.sha256(content).hexdigest()[:16]
    for node in ast.walk(tree):
        new = None if id(node) in ignored else changed(node)
        if new is None or not isinstance(node, ast.expr):
            continue
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        before = content[start:end].decode()
        after = f"({ast.unparse(new)})"
        name = path.relative_to(ROOT).as_posix()
        yield Point(name, node.lineno, start, end, before, after, digest)


def drawn(count: int, seed: int) -> list[Point]:
    """Draw points of the whole source; a change of the source changes few of them."""
    modules = [
        path
        for path in sorted((ROOT / SOURCE).rglob("*.py"))
        if not any(path.is_relative_to(ROOT / SOURCE / left_out) for left_out in LEFT_OUT)
    ]
    points = [point for path in modules for point in points_of(path)]
    seen: Counter[str] = Counter()
    ranks = {}
    for point in points:
        name = f"{seed}:{point.path}:{point.before}:{point.after}"
        ranks[point] = hashlib.sha256(f"{name}:{seen[name]}".encode()).digest()
        seen[name] += 1
    return sorted(points, key=ranks.__getitem__)[:count]


def selections(point: Point) -> list[tuple[str, list[str]]]:
    """Return the runs of tests for a point: marks, and files or folders."""
    inner = Path(point.path).relative_to(SOURCE).with_suffix("")
    module = ".".join(("coca", *inner.parts))
    mirrored = f"test_{inner.name}.py"
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    near = [
        path.relative_to(ROOT).as_posix()
        for path in tests
        if path.name == mirrored
        or re.search(rf"\b{re.escape(module)}\b", path.read_text(encoding="utf-8"))
    ]
    package = "tests/" + inner.parts[0]
    folder = package if (ROOT / package).is_dir() else "tests/house"
    heavy = f"({HEAVY}) and {NOT_HERE}"
    runs = [(LIGHT, near), (LIGHT, [folder]), (heavy, near)]
    return [(marks, names) for marks, names in runs if names]


def run_tests(tree: Path, marks: str, names: Sequence[str]) -> tuple[int, str]:
    """Run tests of a tree until one fails; return the exit code, and the test or the last line."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--jaxtyping-packages=", "-m", marks]
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", "--timeout", "120", *names],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, "the time limit"
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return done.returncode, failed[1] if failed else done.stdout.strip().splitlines()[-1][:100]


def decide(point: Point, tree: Path) -> dict[str, object]:
    """Run the tests with a changed point, in a tree that is the clone before and after."""
    path = tree / point.path
    content = path.read_bytes()
    state, noticed = "survived", ""
    for marks, names in selections(point):
        path.write_bytes(content[: point.start] + point.after.encode() + content[point.end :])
        try:
            code, last = run_tests(tree, marks, names)
        finally:
            path.write_bytes(content)
        if code in (1, 2, 3, 4, 124):
            # A test that fails without the change as well decides nothing.
            is_sound = last.startswith("tests/") and run_tests(tree, NOT_HERE, [last])[0] == 0
            # A module that `conftest.py` cannot import ends the run without a test.
            state = "killed" if is_sound or code == 4 else "undecided"
            noticed = last
            break
    return asdict(point) | {"state": state, "by": noticed}


def write_tree(tree: Path) -> None:
    """Copy what git has or would add."""
    shutil.rmtree(tree, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)


def report(rows: Sequence[dict[str, object]], points: int, seed: int) -> str:
    """Return the score of all decided points, and the survivors, as a page."""
    counts = Counter(str(row["state"]) for row in rows)
    survivors = "".join(
        f"| `{row['path']}:{row['line']}` | `{one_line(row['before'])}` |"
        f" `{one_line(row['after'])}` | {row['state']} |\n"
        for row in rows
        if row["state"] != "killed"
    )
    return (
        f"# Mutants\n\nCommand: `make mutants`, {date.today()}; seed {seed}, {points} points."
        f" Decided: {len(rows)}, killed: {counts['killed']}, survived: {counts['survived']},"
        f" undecided: {counts['undecided']}.\nSome survivors mean the same as before.\n\n"
        f"| place | before | after | |\n|---|---|---|---|\n{survivors}"
    )


def one_line(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def key(point: Point) -> str:
    return f"{point.path}:{point.start}:{point.after}:{point.digest}"


def main() -> None:
    """Decide points until the time is over, and print the score."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--report", type=Path, help="page to write with the score")
    options = parser.parse_args()
    points, folder = drawn(options.points, options.seed), ROOT / "runs" / "mutants"
    folder.mkdir(parents=True, exist_ok=True)
    log, end_s = folder / f"{options.seed}.jsonl", time.monotonic() + 60 * options.minutes
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    fields = set(Point.__dataclass_fields__)
    results = {
        key(Point(**{name: value for name, value in row.items() if name in fields})): row
        for row in rows
    }
    tree = folder / "tree"
    write_tree(tree)
    for number, point in enumerate(points, start=1):
        if key(point) in results or time.monotonic() > end_s:
            continue
        started_s = time.monotonic()
        row = decide(point, tree) | {"seconds": round(time.monotonic() - started_s)}
        results[key(point)] = row
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        change = f"{one_line(point.before)[:50]} -> {one_line(point.after)[:50]}"
        place = f"{point.path}:{point.line}"
        sys.stdout.write(
            f"{number}/{len(points)} {row['state']} {place} {change} by {row['by']}"
            f" in {row['seconds']} s\n"
        )
        sys.stdout.flush()
    # Points of earlier sources count as long as a test would decide them in the same way.
    page = report([*results.values()], options.points, options.seed)
    sys.stdout.write(page)
    if options.report:
        options.report.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
