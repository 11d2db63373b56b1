"""The list of packages equals the packages, and figures of README those that were measured."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "coca"


def between_marks(text: str, mark: str) -> list[str]:
    """Return the lines between `<!-- mark -->` and `<!-- /mark -->`, without code fences."""
    opening, closing = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    assert opening in text, f"the page lacks {opening}"
    assert closing in text, f"the page lacks {closing}"
    lines = text.partition(opening)[2].partition(closing)[0].splitlines()
    return [line for line in lines if line.strip() and not line.startswith("```")]


def packages() -> Iterator[str]:
    """Yield a line for each package of `coca`: its name and the first sentence of its docstring."""
    for path in sorted(PACKAGE.iterdir()):
        if (path / "__init__.py").exists():
            yield f"{path.name + '/':<15}{sentence(path / '__init__.py')}"


def sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def test_the_layout_lists_every_package_with_its_docstring() -> None:
    page = ROOT / "docs" / "architecture.md"
    shown = between_marks(page.read_text(encoding="utf-8"), "tree")
    entries = list(packages())
    ready = "\n".join(entries)
    assert shown == entries, f"docs/architecture.md should contain:\n{ready}"


class Figure(NamedTuple):
    """A measured score, 0 to 1, with its interval and baselines."""

    score: float
    low: float
    high: float
    baseline: float
    chance: float


CARD = PACKAGE / "weights" / "everyday" / "README.md"
OF_CARD = {
    "100 everyday queries": ("everyday_queries on 100 samples of OpenMoji", "success@5"),
    "captions of 1,000 photos": ("captioning on 1,000 samples of Flickr8k val", "cider"),
    "215 classes": ("zero_shot on 300 samples of CC BY photos of Flickr, second half", "top1"),
}
"""Beginnings of rows in README, with the table and the row of the model card."""


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def of_card(table: str, score: str) -> Figure:
    """Read a score from the card, which `coca export` writes from reports of `coca evaluate`."""
    _, found, rest = CARD.read_text(encoding="utf-8").partition(f"\n{table}\n")
    assert found, f"the model card has no table {table!r}"
    (row,) = re.findall(
        rf"^\| {re.escape(score)} \|.*$", rest.partition("\n\n2026")[0], re.MULTILINE
    )
    _, value, interval, chance, baseline = cells(row)
    low, high = map(float, interval.split(" to "))
    return Figure(float(value), low, high, float(baseline.split()[0]), float(chance))


@pytest.mark.parametrize("start", OF_CARD)
def test_a_figure_of_the_default_model_is_the_measured_one(start: str) -> None:
    block = between_marks((ROOT / "README.md").read_text(encoding="utf-8"), "demo figures")
    (row,) = [line for line in block if line.startswith(f"| {start}")]
    measured = of_card(*OF_CARD[start])
    _, score, interval, baseline, chance = cells(row)
    # CIDEr is not a fraction of anything.
    if "CIDEr" in row:
        assert score == f"{measured.score:.2f}"
        assert interval == f"{measured.low:.2f} to {measured.high:.2f}"
        assert baseline.split()[-1] == f"{measured.baseline:.2f}"
        assert float(chance) == pytest.approx(measured.chance, abs=0.005)
        return
    assert score == f"{measured.score:.0%}".replace("%", " %")
    assert interval == f"{100 * measured.low:.0f} to {100 * measured.high:.0f} %"
    # The strongest baseline is the first.
    first = re.search(r"(\d+) %", baseline)
    assert first is not None
    assert first[1] == f"{100 * measured.baseline:.0f}"
    assert float(chance.removesuffix("%")) / 100 == pytest.approx(measured.chance, abs=0.0005)
