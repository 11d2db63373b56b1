"""Print a table of the files and lines of each package, at one or several commits.

python scripts/package_sizes.py            # HEAD
python scripts/package_sizes.py v0.1.0 HEAD
"""

import io
import subprocess
import sys
import tarfile
from collections import defaultdict
from pathlib import PurePosixPath

ROOT = PurePosixPath("src/coca")


def sizes(revision: str) -> dict[str, tuple[int, int]]:
    """Count the Python files and their lines by package, as of a commit."""
    archive = subprocess.run(
        ["git", "archive", revision, str(ROOT)], check=True, capture_output=True
    ).stdout
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            content = tar.extractfile(member) if path.suffix == ".py" else None
            if content is None:
                continue
            parts = path.relative_to(ROOT).parts
            package = parts[0] if len(parts) > 1 else "coca"
            files, lines = counts[package]
            counts[package] = files + 1, lines + len(content.read().splitlines())
    return counts


def table(revisions: list[str]) -> str:
    """Write the counts as a Markdown table, with a row of totals."""
    columns = [sizes(revision) for revision in revisions]
    packages = sorted({package for column in columns for package in column})
    heads = [f"files, {it} | lines, {it}" for it in revisions]
    rows = ["| package | " + " | ".join(heads) + " |", "|---" * (1 + 2 * len(heads)) + "|"]
    for package in packages:
        cells = [f"{files} | {lines:,}" for files, lines in (it[package] for it in columns)]
        rows.append(f"| `{package}` | " + " | ".join(cells) + " |")
    totals = [[sum(part) for part in zip(*it.values(), strict=True)] for it in columns]
    cells = [f"{files} | {lines:,}" for files, lines in totals]
    rows.append("| total | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(table(sys.argv[1:] or ["HEAD"]) + "\n")
