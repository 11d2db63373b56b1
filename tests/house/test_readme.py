"""The README's picture of the package, which decays unless a test holds it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "coca"


def between_marks(text: str, mark: str) -> list[str]:
    """The lines between `<!-- mark -->` and `<!-- /mark -->`, without the fence of a code block."""
    opening, closing = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    assert opening in text, f"README.md lacks {opening}"
    assert closing in text, f"README.md lacks {closing}"
    lines = text.partition(opening)[2].partition(closing)[0].splitlines()
    return [line for line in lines if line.strip() and not line.startswith("```")]


def tree(folder: Path, depth: int = 0) -> Iterator[tuple[str, str]]:
    """An indented name and the first sentence of each file, rooms after files."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        hidden = path.name in ("__pycache__", "py.typed")
        if hidden or (path.name == "__init__.py" and depth > 0):
            continue
        indent = "  " * depth
        if path.is_dir():
            yield f"{indent}{path.name}/", sentence(path / "__init__.py")
            if path.name != "weights":  # data, and no code to find one's way in
                yield from tree(path, depth + 1)
        else:
            yield f"{indent}{path.name}", sentence(path)


def sentence(path: Path) -> str:
    if path.suffix != ".py" or not path.exists():
        return ""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def test_the_tree_names_every_file_and_says_what_it_is() -> None:
    shown = between_marks((ROOT / "README.md").read_text(encoding="utf-8"), "tree")
    entries = list(tree(PACKAGE))
    ready = "\n".join(f"{name:<24}{text}" for name, text in entries)
    names = [line[: len(line) - len(line.lstrip())] + line.split()[0] for line in shown]
    assert names == [name for name, _ in entries], f"README.md should hold:\n{ready}"
    bare = [line for line in shown if len(line.split()) < 2]
    assert bare == [], "every file needs a word on what it is"
