"""Print a table of the files and lines of each package, at one or several commits.

python scripts/package_sizes.py            # HEAD
python scripts/package_sizes.py v0.1.0 HEAD
python scripts/package_sizes.py --budget   # the working tree; exit code 1 above a limit
"""

import ast
import io
import re
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = PurePosixPath("src/coca")
CLONE = Path(__file__).parent.parent
GENERATED = ("options.md", "photo-credits.md")
"""Pages that `make docs` writes."""


@dataclass
class Size:
    """Size of a package: Python files, lines, lines of code without docstrings, and of imports."""

    files: int = 0
    lines: int = 0
    code: int = 0
    imports: int = 0
    small: int = 0
    """Files below 60 lines, without those of package docstrings."""

    def add(self, other: "Size") -> None:
        """Add the counts of another size."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


def size_of(text: str, *, is_package: bool = False) -> Size:
    """Measure a module."""
    lines, nodes = text.splitlines(), list(ast.walk(ast.parse(text)))
    written = sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines)
    strings = [node for node in nodes if isinstance(node, ast.Expr) and _is_text(node.value)]
    code = written - sum(map(_filled_lines(lines), strings))
    imports = sum(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
    )
    return Size(1, len(lines), code, imports, int(len(lines) < 60 and not is_package))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _filled_lines(lines: list[str]) -> Callable[[ast.Expr], int]:
    return lambda node: sum(map(bool, map(str.strip, lines[node.lineno - 1 : node.end_lineno])))


def sizes(revision: str) -> dict[str, Size]:
    """Measure each package, as of a commit."""
    archive = subprocess.run(
        ["git", "archive", revision, str(ROOT)], check=True, capture_output=True, cwd=CLONE
    ).stdout
    found: dict[str, Size] = defaultdict(Size)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            content = tar.extractfile(member) if path.suffix == ".py" else None
            if content is None:
                continue
            parts = path.relative_to(ROOT).parts
            text = content.read().decode()
            found[parts[0] if len(parts) > 1 else "coca"].add(
                size_of(text, is_package=path.name == "__init__.py")
            )
    return found


def table(revisions: list[str]) -> str:
    """Write the sizes as a Markdown table, with a row of totals."""
    columns = [sizes(revision) for revision in revisions]
    packages = sorted({package for column in columns for package in column})
    heads = [f"files, {revision} | lines, {revision}" for revision in revisions]
    rows = ["| package | " + " | ".join(heads) + " |", "|---" * (1 + 2 * len(heads)) + "|"]
    for package in packages:
        cells = [f"{column[package].files} | {column[package].lines:,}" for column in columns]
        rows.append(f"| `{package}` | " + " | ".join(cells) + " |")
    totals = []
    for column in columns:
        total = Size()
        for size in column.values():
            total.add(size)
        totals.append(total)
    cells = [f"{total.files} | {total.lines:,}" for total in totals]
    rows.append("| total | " + " | ".join(cells) + " |")
    for revision, total in zip(revisions, totals, strict=True):
        rows.append(
            f"\n{revision}: import statements are {total.imports / total.code:.1%} of the lines of "
            f"code; {total.small} of {total.files} files have fewer than 60 lines."
        )
    return "\n".join(rows)


class Row(NamedTuple):
    """A size of the project, its goal, and its limit if it has one."""

    what: str
    count: int
    goal: int
    limit: int | None = None

    @property
    def is_above(self) -> bool:
        """Whether the count is above the limit."""
        return self.limit is not None and self.count > self.limit


def budget() -> list[Row]:
    """Count the working tree against the limits and goals of CONTRIBUTING.md."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], check=True, capture_output=True, text=True, cwd=CLONE
    ).stdout
    files = [path for name in listing.split("\0") if name and (path := CLONE / name).is_file()]
    names = (CLONE / "tests" / "public_names.txt").read_text(encoding="utf-8").splitlines()

    def lines(folder: str, *suffixes: str) -> int:
        chosen = [path for path in files if path.suffix in suffixes and _is_in(path, folder)]
        return sum(path.read_bytes().count(b"\n") for path in chosen)

    def public(pattern: str) -> int:
        return sum(re.match(pattern, name) is not None for name in names)

    kept = {*(CLONE / "docs").glob("*.md")} - {CLONE / "docs" / name for name in GENERATED}
    words = [path.read_text(encoding="utf-8").split() for path in kept]
    kept = [path for path in files if _is_in(path, "benchmarks/results")]
    return [
        Row("src/coca, lines of Python", lines(str(ROOT), ".py"), 54_000, 64_500),
        Row("options of commands", public(r"coca .* --"), 260, 260),
        Row("keys of recipes", public("recipe "), 800, 800),
        Row("routes of the service", public(r"(GET|POST|PUT|PATCH|DELETE) \S+$"), 36, 36),
        Row("JavaScript, CSS, HTML, lines", lines("src", ".js", ".css", ".html"), 4_000),
        Row("tests, lines of Python", lines("tests", ".py"), 45_000),
        Row("benchmarks, lines of Python", lines("benchmarks", ".py"), 5_000),
        Row("benchmarks/results, files", len(kept), 25),
        Row("docs/*.md, words", sum(map(len, words)), 25_000),
    ]


def _is_in(path: Path, folder: str) -> bool:
    return path.is_relative_to(CLONE / folder)


def budget_table(rows: Sequence[Row]) -> str:
    """Write sizes, goals and limits as a Markdown table; a count above its limit is marked."""
    head = "| what | now | goal | limit |\n|---|---|---|---|\n"
    return head + "\n".join(
        f"| {row.what} | {row.count:,}{' (above)' if row.is_above else ''} "
        f"| {row.goal:,} | {'-' if row.limit is None else f'{row.limit:,}'} |"
        for row in rows
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--budget"]:
        counted = budget()
        sys.stdout.write(budget_table(counted) + "\n")
        sys.exit(any(row.is_above for row in counted))
    sys.stdout.write(table(sys.argv[1:] or ["HEAD"]) + "\n")
