"""Rules of configurations between several fields."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "src" / "coca"


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield path.relative_to(PACKAGE).as_posix(), node


def test_a_rule_does_not_hide_that_of_a_base_class() -> None:
    rules: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for _, node in classes():
        methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
        rules[node.name] = {
            item.name for item in methods if "model_validator" in map(_name, item.decorator_list)
        }
        bases[node.name] = [ast.unparse(base) for base in node.bases]
    for name, own in rules.items():
        above = list(bases[name])
        for base in above:
            assert not own & rules.get(base, set()), (name, base)
            above += bases.get(base, [])


def _name(decorator: ast.expr) -> str:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
