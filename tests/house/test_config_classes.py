"""Configurations declare the ranges of their settings, and `Config` checks them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "src" / "coca"
RANGE = re.compile(
    r"\b(Field|Ge|Gt|Le|Lt|Interval)\(|\b(Positive|NonNegative)(Int|Float)\b|\bFraction\b"
)
CHECK = "super().__post_init__()"


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and "dataclass" in map(_name, node.decorator_list):
                yield f"{path.relative_to(PACKAGE).as_posix()}:{node.name}", node


def _name(decorator: ast.expr) -> str:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)


def check_of_ranges(node: ast.ClassDef) -> str:
    """What is wrong with the checks of a dataclass; "" where nothing is."""
    fields = [ast.unparse(item.annotation) for item in node.body if isinstance(item, ast.AnnAssign)]
    if any(map(RANGE.search, fields)) and not node.bases:
        return "it declares ranges, but has no base class `Config` that checks them"
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__post_init__" and node.bases:
            first = ast.unparse(item.body[0])
            return "" if first == CHECK else f"its __post_init__ begins with {first!r}"
    return ""


def test_a_class_with_ranges_checks_them_before_its_own_rules() -> None:
    faults = {name: fault for name, node in classes() if (fault := check_of_ranges(node))}
    assert faults == {}
