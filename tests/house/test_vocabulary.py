"""Prose uses the field's terms: no dialect in docs and docstrings, and functions begin with verbs.

Docstrings and messages of the whole package are checked, and all `PAGES`; of tests, benchmarks and
scripts the docstrings, comments and names. Their other strings are data, such as captions.
Changelog and lab notes are records of their time and are not checked.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "coca"
RECORDS = {"lab-notes.md"}
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in RECORDS),
]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
MODULES = sorted(PACKAGE.rglob("*.py"))
OTHER_MODULES = sorted(
    path for folder in ("tests", "benchmarks", "scripts") for path in (ROOT / folder).rglob("*.py")
)

# Words that other projects do not use so; each has a plainer one, such as "reported" for "told".
DIALECT = re.compile(
    r"\b(told|tells?|said|says?|heard|stands?|lies?|beside|anew|laid (?:out|open)"
    r"|gives? back|given back|mend(?:s|ed|ing)?|pictures?|heaps?|whatever|second thoughts"
    r"|a Milvus(?! (?:Lite|server|cluster|collection|instance|version))|rooms|doors?|floors)\b",
    re.IGNORECASE,
)
# The older form of errors, "k is 2.5; right is a whole number", for "k must be a whole number".
OLD_FORM = re.compile(r"\bright (?:is|are)\b")
# First words that are not verbs; those that end in -s, -ing or -ed are recognized by their ends.
NO_VERBS = {
    *("A", "All", "An", "Another", "Any", "As", "Both", "By", "Each", "Every", "For", "From"),
    *("How", "If", "In", "It", "Its", "Last", "Many", "More", "Most", "No", "Not", "Of", "On"),
    *("One", "Only", "Or", "Other", "Same", "Some", "Such", "That", "The", "This", "Those", "To"),
    *("Two", "What", "When", "Where", "Whether", "Which", "Who", "Whole", "With", "Without"),
    *("Number", "Path", "Share", "Text", "Vector", "Whatever"),
}
VERBS_LIKE_OTHERS = {"Bring", "Embed", "Feed", "Need", "Seed", "Speed", "String", "Bias", "Focus"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose_of_page(text: str) -> str:
    """Blank out fenced code, code spans, quotations, comments and the targets of links."""
    blank = [r"^```.*?^```$", r"<!--.*?-->", r"`[^`]*`", r"\]\([^)]*\)", r'"[^"\n]*"', r"^ {4}.*?$"]
    for pattern in blank:
        text = re.sub(pattern, "", text, flags=re.DOTALL | re.MULTILINE)
    return text


def prose_of_docstring(text: str) -> str:
    """Blank out code spans, quotations, names of arguments and examples."""
    text = re.sub(r"``?[^`]*``?", "", text)
    text = re.sub(r'"[^"]*"', "", text)
    text = re.sub(r"^\s+\w+: ", "", text, flags=re.MULTILINE)
    text = re.sub(r"^Examples?:\n(?:[ ]+.*\n|\n)*", "", text + "\n", flags=re.MULTILINE)
    return re.sub(r"^\s*(>>>|\.\.\.) .*$", "", text, flags=re.MULTILINE)


def prose_of_message(text: str) -> str:
    """Blank out code spans, quotations and the name of the default collection."""
    return re.sub(r"`[^`]*`|\"[^\"]*\"|^pictures $", "", text)


def documented(path: Path) -> Iterator[tuple[str, ast.AST, str]]:
    """A name, node and docstring for a module, its classes and its functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield f"{name_of(path)}:{getattr(node, 'lineno', 1)}", node, text


def messages(path: Path) -> Iterator[tuple[str, str]]:
    """Find the strings of a module that are sentences or parts of them, except docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    owners = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    firsts = [node.body[0] for node in nodes if isinstance(node, owners) and node.body]
    docstrings = {id(first.value) for first in firsts if isinstance(first, ast.Expr)}
    for node in nodes:
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        if isinstance(node.value, str) and " " in node.value:
            yield f"{name_of(path)}:{node.lineno}", node.value


def comments(path: Path) -> Iterator[tuple[str, str]]:
    """The comments of a module."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield f"{name_of(path)}:{token.start[0]}", prose_of_docstring(token.string)


def defined_names(path: Path) -> Iterator[tuple[str, str]]:
    """Every name that a module gives to a class, function, argument or variable."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.arg(arg=name):
                yield f"{name_of(path)}:{node.lineno}", name
            case ast.Name(id=name, ctx=ast.Store()):
                yield f"{name_of(path)}:{node.lineno}", name


def is_verb(word: str) -> bool:
    """Recognize an imperative by excluding other words and endings."""
    if word in VERBS_LIKE_OTHERS:
        return True
    ends = word.endswith(("ing", "ed")) or (word.endswith("s") and not word.endswith("ss"))
    return bool(re.fullmatch(r"[A-Z][a-z-]+", word)) and word not in NO_VERBS and not ends


def is_action(node: ast.AST) -> bool:
    """Distinguish public functions from properties, whose docstrings are noun phrases."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
        return False
    names = {ast.unparse(it).partition("(")[0].split(".")[-1] for it in node.decorator_list}
    return not names & {"property", "cached_property", "setter"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_uses_the_terms_of_the_field(page: Path) -> None:
    assert DIALECT.findall(prose_of_page(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_the_head_of_a_recipe_uses_the_terms_of_the_field(recipe: Path) -> None:
    lines = recipe.read_text(encoding="utf-8").splitlines()
    comments = "\n".join(line.partition("#")[2] for line in lines if "#" in line)
    assert DIALECT.findall(re.sub(r"`[^`]*`|\"[^\"]*\"|'[^']*'", "", comments)) == []


def test_docstrings_use_the_terms_of_the_field() -> None:
    found = [
        (name, words)
        for path in MODULES
        for name, _, text in documented(path)
        if (words := DIALECT.findall(prose_of_docstring(text)))
    ]
    assert found == []


def test_messages_use_the_terms_of_the_field() -> None:
    found = [
        (name, words)
        for path in MODULES
        for name, text in messages(path)
        if (words := DIALECT.findall(prose_of_message(text)) + OLD_FORM.findall(text))
    ]
    assert found == []


def test_tests_benchmarks_and_scripts_use_the_terms_of_the_field() -> None:
    found = []
    for path in OTHER_MODULES:
        texts = [(line, prose_of_docstring(text)) for line, _, text in documented(path)]
        names = [(line, name.replace("_", " ")) for line, name in defined_names(path)]
        for line, text in [*texts, *comments(path), *names]:
            if words := DIALECT.findall(text):
                found.append((line, words))
    assert found == []


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    found = [
        (name, text.splitlines()[0])
        for path in MODULES
        for name, node, text in documented(path)
        if is_action(node) and not is_verb(text.split()[0].rstrip(",.:;"))
    ]
    assert found == []


def test_the_file_walks_name_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[\w/]+\.py)`", text)
    assert len(named) > 40
    assert [name for name in named if not (PACKAGE / name).exists()] == []
