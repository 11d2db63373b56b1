"""The pages of docs/reference, written from the source without importing it.

python tests/reference_pages.py    writes the pages again after a change of names or docstrings

A page has an introduction written by hand, and then a section for each module that it names by
`::: coca.module`: its file, its first sentence, and a table of its public classes and functions.
`make docs` shows all signatures and docstrings in place of the line with `:::`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
DIRECTIVE = re.compile(r"^::: (coca[\w.]*)$", re.MULTILINE)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | Function


def pages() -> list[Path]:
    """List the pages that name modules."""
    return [path for path in sorted(FOLDER.glob("*.md")) if DIRECTIVE.search(path.read_text())]


def written(page: str) -> str:
    """Return a page with its introduction and modules, each once, with sections from the source."""
    introduction = re.split(r"^(?:## `coca|::: coca)", page, maxsplit=1, flags=re.MULTILINE)[0]
    sections = [section(name) for name in dict.fromkeys(DIRECTIVE.findall(page))]
    return "\n\n".join([introduction.rstrip(), *sections]) + "\n"


def section(name: str) -> str:
    """Describe a module, or one function of a module."""
    path, member = file_of(name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in public(tree.body) if member in ("", node.name)]
    lead = f"`{path.relative_to(ROOT).as_posix()}`"
    if not member:
        lead += f": {first_sentence(tree)}"
    parts = [f"## `{name}`", lead]
    if rows := [row for node in found for row in rows_of(node)]:
        parts.append("\n".join(["| name | purpose |", "|---|---|", *rows]))
    return "\n\n".join([*parts, f"::: {name}"])


def file_of(name: str) -> tuple[Path, str]:
    """Return the file of a module, with the name of its member where one is named."""
    path = ROOT / "src" / Path(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate, ""
    return path.parent.with_suffix(".py"), path.name


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    """Yield the public classes and functions that have a docstring, in the order of the source."""
    for node in body:
        named = isinstance(node, Definition) and not node.name.startswith("_")
        if named and isinstance(node, Definition) and ast.get_docstring(node):
            yield node


def rows_of(node: Definition) -> Iterator[str]:
    """Yield the row of a function, or of a class and of its methods."""
    yield row(node.name if isinstance(node, ast.ClassDef) else call(node), node)
    if isinstance(node, ast.ClassDef):
        for method in public(node.body):
            if isinstance(method, Function):
                yield row(f"{node.name}.{called(method)}", method)


def called(method: Function) -> str:
    """Format a method; a property is not a call."""
    decorators = {ast.unparse(decorator) for decorator in method.decorator_list}
    attribute = decorators & {"property", "cached_property", "functools.cached_property"}
    return method.name if attribute else call(method)


def call(function: Function) -> str:
    """Format a function with the names of its parameters."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    names = [name for name in names if name not in ("self", "cls")]
    if given.vararg:
        names.append(f"*{given.vararg.arg}")
    elif given.kwonlyargs:
        names.append("*")
    names += [argument.arg for argument in given.kwonlyargs]
    if given.kwarg:
        names.append(f"**{given.kwarg.arg}")
    return f"{function.name}({', '.join(names)})"


def row(name: str, node: Definition) -> str:
    """Format a row of the table."""
    return f"| `{name}` | {first_sentence(node)} |"


def first_sentence(node: ast.Module | Definition) -> str:
    """Return the first paragraph of a docstring in one line."""
    paragraph = (ast.get_docstring(node) or "").partition("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|")


if __name__ == "__main__":
    for page in pages():
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
