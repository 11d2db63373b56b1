"""Each figure of a table in the docs is in the report that its section names.

A report is a file of `benchmarks/results/`, or the model card. Only decimal fractions are compared:
they are measured, and integers are mostly sizes. Goals and figures of other sources stay out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
CARD = ROOT / "src" / "coca" / "weights" / "everyday" / "README.md"
REPORT = re.compile(r"`(benchmarks/results/[\w.-]+)\*?`|`([\w-]+_[\w.-]+\.md)`")
NUMBER = re.compile(r"(?<![\w.,/-])(\d[\d,]*\.\d+|\.\d+)(?![\w/]|[.,]\d)")
HEADS_OF_GOALS = ("goal",)


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Split a page at its headings; yield heading and content."""
    for part in re.split(r"(?m)^(?=#+ )", text):
        yield part.partition("\n")[0].lstrip("# "), part


def reports_of(section: str) -> list[Path]:
    """Return the reports that a section names."""
    found = []
    for match in REPORT.finditer(section):
        pattern = match[1] or f"benchmarks/results/{match[2]}"
        found += sorted(ROOT.glob(pattern if pattern.endswith(".md") else f"{pattern}*"))
    return found


def cells(section: str) -> Iterator[str]:
    """Yield the cells of the tables of a section, without columns of goals."""
    goals: set[int] = set()
    for line in section.splitlines():
        if not line.startswith("|"):
            goals = set()
            continue
        row = line.strip("|").split("|")
        goals |= {column for column, cell in enumerate(row) if cell.strip() in HEADS_OF_GOALS}
        yield from (cell for column, cell in enumerate(row) if column not in goals)


def is_in(number: str, measured: list[float]) -> bool:
    """Return whether a number is a measured one, rounded; or a percentage of it."""
    value, digits = float(number.replace(",", "")), len(number.partition(".")[2])
    half = 0.5000001 * 10**-digits
    return any(abs(it - value) <= half or abs(100 * it - value) <= half for it in measured)


def untraced(section: str, sources: list[Path]) -> list[str]:
    texts = " ".join(source.read_text(encoding="utf-8") for source in sources)
    numbers = re.findall(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?|(?<![\w.,])\.\d+", texts)
    measured = [float(it.replace(",", "")) for it in numbers]
    shown = (found for cell in cells(section) for found in NUMBER.findall(cell))
    return [number for number in shown if not is_in(number, measured)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_each_figure_of_a_table_is_in_the_report_that_its_section_names(page: Path) -> None:
    missing = {}
    for heading, section in sections(page.read_text(encoding="utf-8")):
        reports = reports_of(section)
        assert reports or page.stem != "results" or "|" not in section, heading
        if reports and (rest := untraced(section, [*reports, CARD])):
            missing[heading] = rest
    assert missing == {}


def test_a_figure_that_no_report_has_is_found(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    report.write_text("| 0.6667 | 1,234.5 | 12 |\n", encoding="utf-8")
    section = "## Speed\n\n| a | b | goal |\n|---|---|---|\n| 0.67 (66.7 %) | 1,234.5 | 0.99 |\n"
    assert untraced(section, [report]) == []
    assert untraced(section.replace("0.67 (", "0.68 ("), [report]) == ["0.68"]
