"""Each figure of a table in the docs is in the report that its section names, and each figure of
README, changelog and docs in some report.

A report is a file of `benchmarks/results/`, the model card or the lab notes. Only decimal fractions
are compared: they are measured, and integers are mostly sizes. Goals and figures of other sources
stay out. A figure of a sentence may be in any report, so a wrong one can be there by chance.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import documented

ROOT = Path(__file__).parents[2]
PAGES = [page for page in documented.PAGES if page.parent.name == "docs"]
CARD = ROOT / "src" / "coca" / "weights" / "everyday" / "README.md"
REPORT = re.compile(r"`(benchmarks/results/[\w.-]+)\*?`|`([\w-]+_[\w.-]+\.md)`")
NUMBER = re.compile(r"(?<![\w.,/-])(\d[\d,]*\.\d+|\.\d+)(?![\w/]|[.,]\d)")
HEADS_OF_GOALS = ("goal",)
READ_BY_PEOPLE = [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES]
REPORTS = [
    *sorted((ROOT / "benchmarks" / "results").glob("*.md")),
    CARD,
    ROOT / "benchmarks" / "lab-notes.md",
]
NOT_TEXT = re.compile(r"(?ms)^```.*?^```|`[^`]*`|\]\([^)]*\)|arXiv [\d.]+")
OF_OTHERS = {
    "The published CoCa models": "sizes of published files",
    "Languages, memory and time": "immich's documentation",
}
"""Sections with figures of other sources, and the source."""


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


def untraced(shown: Iterable[str], sources: list[Path]) -> list[str]:
    """Return the figures of texts that no source has."""
    texts = " ".join(source.read_text(encoding="utf-8") for source in sources)
    numbers = re.findall(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?|(?<![\w.,])\.\d+", texts)
    measured = [float(it.replace(",", "")) for it in numbers]
    figures = (figure for text in shown for figure in NUMBER.findall(text))
    return [figure for figure in figures if not is_in(figure, measured)]


def sentences(section: str) -> Iterator[str]:
    """Yield the lines of a section outside tables and code."""
    lines = NOT_TEXT.sub("", section).splitlines()
    return (line for line in lines if not line.startswith("|"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_each_figure_of_a_table_is_in_the_report_that_its_section_names(page: Path) -> None:
    missing = {}
    for heading, section in sections(page.read_text(encoding="utf-8")):
        reports = reports_of(section)
        assert reports or page.stem != "results" or "|" not in section, heading
        if reports and (rest := untraced(cells(section), [*reports, CARD])):
            missing[heading] = rest
    assert missing == {}


@pytest.mark.parametrize("page", READ_BY_PEOPLE, ids=lambda page: str(page.stem))
def test_each_figure_is_in_some_report(page: Path) -> None:
    missing = {}
    for heading, section in sections(page.read_text(encoding="utf-8")):
        shown = [*sentences(section), *([] if reports_of(section) else cells(section))]
        texts = [NOT_TEXT.sub("", text) for text in shown]
        if heading not in OF_OTHERS and (rest := untraced(texts, REPORTS)):
            missing[heading] = rest
    assert missing == {}


def test_a_figure_that_no_report_has_is_found(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    report.write_text("| 0.6667 | 1,234.5 | 12 |\n", encoding="utf-8")
    section = "## Speed\n\n| a | b | goal |\n|---|---|---|\n| 0.67 (66.7 %) | 1,234.5 | 0.99 |\n"
    assert untraced(cells(section), [report]) == []
    assert untraced(cells(section.replace("0.67 (", "0.68 (")), [report]) == ["0.68"]
    text = "It is 0.67, or 0.5 (`0.1`, arXiv 2205.01917).\n"
    assert untraced(sentences(text), [report]) == ["0.5"]
