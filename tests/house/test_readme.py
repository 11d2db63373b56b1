"""The README's tree of packages equals the packages."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "coca"


def between_marks(text: str, mark: str) -> list[str]:
    """Return the lines between `<!-- mark -->` and `<!-- /mark -->`, without code fences."""
    opening, closing = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    assert opening in text, f"README.md lacks {opening}"
    assert closing in text, f"README.md lacks {closing}"
    lines = text.partition(opening)[2].partition(closing)[0].splitlines()
    return [line for line in lines if line.strip() and not line.startswith("```")]


def tree(folder: Path, depth: int = 0) -> Iterator[str]:
    """Yield a line for each package: its indented name and the first sentence of its docstring."""
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").exists():
            yield f"{'  ' * depth + path.name + '/':<20}{sentence(path / '__init__.py')}"
            yield from tree(path, depth + 1)


def sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def test_the_tree_lists_every_package_with_its_docstring() -> None:
    shown = between_marks((ROOT / "README.md").read_text(encoding="utf-8"), "tree")
    entries = list(tree(PACKAGE))
    ready = "\n".join(entries)
    assert shown == entries, f"README.md should hold:\n{ready}"
