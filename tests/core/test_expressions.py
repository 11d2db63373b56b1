"""Every regular expression of the package takes time in proportion to its text."""

import ast
import re
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import coca

METHODS = ("match", "fullmatch", "search", "sub", "split", "findall", "finditer")
SECONDS = 0.02
"""Time of the processor above which it is compared with that of a text of an eighth."""


def expressions() -> dict[tuple[str, str], re.Pattern[Any]]:
    """All expressions by their module and name or text, and by the method that is called."""
    found: dict[tuple[str, str], re.Pattern[Any]] = {}
    package = Path(coca.__file__).parent
    for file in sorted(package.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "\nimport re\n" not in text:
            continue
        name = ".".join(file.relative_to(package.parent).with_suffix("").parts)
        methods: dict[str, set[str]] = {}
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Call(ast.Attribute(ast.Name("re"), method), [ast.Constant(used), *_]):
                    if method in METHODS:
                        found[f"{name}: {used!r}", method] = re.compile(used)
                case ast.Call(ast.Attribute(ast.Name(variable), method)) if method in METHODS:
                    methods.setdefault(variable, set()).add(method)
        try:
            values = vars(import_module(name))
        except ImportError:
            continue
        for variable, value in values.items():
            if isinstance(value, re.Pattern):
                for method in methods.get(variable, {"search"}):
                    found[f"{name}.{variable}", method] = value
    return found


def letters(parsed: Any) -> Iterator[str]:
    """Characters that parts of an expression match, and those next to them."""
    if isinstance(parsed, int):
        yield from map(chr, {parsed, parsed ^ 1} if parsed < 0x110000 else ())
    elif not isinstance(parsed, str) and hasattr(parsed, "__iter__"):
        for part in parsed:
            yield from letters(part)


def seconds(pattern: re.Pattern[Any], method: str, text: str) -> float:
    given = text.encode("latin-1", "ignore") if isinstance(pattern.pattern, bytes) else text
    arguments = (given[:0], given) if method == "sub" else (given,)
    start = time.thread_time()
    result = getattr(pattern, method)(*arguments)
    if method == "finditer":
        list(result)
    return time.thread_time() - start


def slow_text(pattern: re.Pattern[Any], method: str) -> str:
    """Return the repeated part of a text whose time grows faster than its length, or ""."""
    own = dict.fromkeys(letters(_parser.parse(pattern.pattern, pattern.flags)))
    alphabet = list(dict.fromkeys([*list(own)[:10], *'0a "~\\\n']))
    pairs = (a + b for a, b in product(alphabet[:8], repeat=2))
    for part, before in product([*alphabet, *pairs], ["", *alphabet[:3]]):
        times = {}
        # From short texts on, since the time of some expressions is exponential.
        for size in (16, 20, 24, 28, *(2**power for power in range(5, 14))):
            text = before + (part * size)[:size] + "\0!"
            times[size] = seconds(pattern, method, text)
            if times[size] > SECONDS:
                if size < 128 or times[size] > 24 * times[size // 8]:
                    return before + part
                break
    return ""


@pytest.mark.slow
def test_no_expression_takes_superlinear_time() -> None:
    for text in (r"(a+)+b", r"\s+$", r"(\d+)\.x", r"(?:a|ab)*c"):
        assert slow_text(re.compile(text), "search"), text
    found = expressions()
    assert len(found) > 70
    slow = {key: part for key, pattern in found.items() if (part := slow_text(pattern, key[1]))}
    assert slow == {}
