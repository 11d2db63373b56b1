"""Printers of parsed filters: SQL over the table of a SQLite collection, and Milvus expressions."""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from coca.core.errors import ArgumentError
from coca.search.filter_language import (
    EVERYTHING,
    Compare,
    Contains,
    Exists,
    Field,
    In,
    Joined,
    Like,
    Node,
    Not,
    Value,
    kind_of,
)
from coca.search.records import ID

Parameter: TypeAlias = str | int

_JSON_TYPES = {"text": ("text",), "number": ("integer", "real"), "truth": ("true", "false")}
_SOME_VALUE = ("text", "integer", "real", "true", "false", "array", "object")
_PLAIN_KEY = re.compile(r"[\w .:-]+", re.ASCII)
"""Keys that a path of SQLite has without escapes, which its versions read differently."""
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_WILDCARD = re.compile(r"\\[%_\\]|[%_*?\[]")
_GLOB = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}


def quoted(text: str) -> str:
    """Quote text as a literal of a filter."""
    return f'"{text.translate(_ESCAPES)}"'


def literal(value: object) -> str:
    """Print a value as a literal of a filter."""
    match value:
        case str():
            return quoted(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return repr(value)
    raise ArgumentError(f"a filter compares texts, numbers and truth values, not {value!r}")


def listed(values: Sequence[object]) -> str:
    """Print values as a list of a filter."""
    return f"[{', '.join(map(literal, values))}]"


# SQL.


def to_sql(node: Node) -> tuple[str, list[Parameter]]:
    """Print a filter as a condition of SQL, 0 or 1 for each record, with its parameters.

    It reads the columns of the language: `tags` as a JSON array, `metadata` as a JSON object, and
    `hidden` as 0 or 1; none is NULL.
    """
    printer = _Sql()
    return printer.condition(node), printer.parameters


class _Sql:
    """Printer that collects parameters in the order of their question marks."""

    def __init__(self) -> None:
        self.parameters: list[Parameter] = []

    def condition(self, node: Node) -> str:
        """Print a node as an expression that is 0 or 1."""
        match node:
            case Not(part):
                return f"NOT {self.condition(part)}"
            case Joined(word, parts):
                return f"({f' {word} '.join(map(self.condition, parts)) or int(word == 'and')})"
            case Compare(field, operator, Field() as other):
                return f"({field.name} {operator} {other.name})"
            case Compare(field, operator, value):
                assert not isinstance(value, Field)
                types = _JSON_TYPES[kind_of(value)]
                return self._typed(
                    field, types, lambda stored: f"({stored} {operator} {self._literal(value)})"
                )
            case In(field, values):
                if field.keys and kind_of(values[0]) == "truth":
                    return self._typed(field, _truths(values))
                types = _JSON_TYPES[kind_of(values[0])]
                return self._typed(field, types, lambda stored: self._one_of(stored, values))
            case Like(field, pattern):
                # LIKE of SQLite ignores the case of ASCII letters.
                glob = _WILDCARD.sub(lambda sign: _GLOB.get(sign[0], sign[0][-1]), pattern)
                return self._typed(
                    field, ("text",), lambda stored: f"({stored} GLOB {self._bind(glob)})"
                )
            case Exists(field):
                return self._typed(field, _SOME_VALUE)
            case Contains(field, values):
                return self._typed(field, ("array",), lambda stored: self._has(stored, values))

    def _typed(
        self, field: Field, types: Sequence[str], test: Callable[[str], str] | None = None
    ) -> str:
        """Print a test of a column, or of a value of the metadata that has one of some types."""
        if not field.keys:
            return test(field.name) if test else "1"
        if all(isinstance(key, int) or _PLAIN_KEY.fullmatch(key) for key in field.keys):
            steps = (f"[{key}]" if isinstance(key, int) else f'."{key}"' for key in field.keys)
            path = "$" + "".join(steps)
            has_type = f"json_type(metadata, {self._bind(path)}) IN ({_names(types)})"
            # Faster than `json_each`, since all calls for one record share its parsed metadata.
            then = test(f"json_extract(metadata, {self._bind(path)})") if test else "1"
            # CASE, unlike AND, never evaluates the test of a value of another type.
            return f"CASE WHEN {has_type} THEN {then} ELSE 0 END"
        *outer, last = field.keys
        source = "metadata"
        for key in outer:
            source = (
                f"(SELECT value FROM json_each({source}) WHERE key = {self._bind(key)} "
                "AND type IN ('array', 'object'))"
            )
        found = f"FROM json_each({source}) AS entry WHERE entry.key = {self._bind(last)}"
        then = test("entry.value") if test else "1"
        return (
            f"EXISTS (SELECT 1 {found} AND "
            f"CASE WHEN entry.type IN ({_names(types)}) THEN {then} ELSE 0 END)"
        )

    def _has(self, stored: str, values: Sequence[Value]) -> str:
        """Print whether a JSON array has one of some values."""
        if kind_of(values[0]) == "truth":
            test = f"item.type IN ({_names(_truths(values))})"
        else:
            types = _names(_JSON_TYPES[kind_of(values[0])])
            test = f"item.type IN ({types}) AND {self._one_of('item.value', values)}"
        return f"EXISTS (SELECT 1 FROM json_each({stored}) AS item WHERE {test})"

    def _one_of(self, stored: str, values: Sequence[Value]) -> str:
        if len(values) == 1:
            return f"({stored} = {self._literal(values[0])})"
        # One parameter for a list of any length.
        listed = self._bind(json.dumps(values, ensure_ascii=False))
        return f"({stored} IN (SELECT value FROM json_each({listed})))"

    def _literal(self, value: Value) -> str:
        if not isinstance(value, float):
            return self._bind(value)
        # SQLite reads the last digit of some floats in JSON differently from Python.
        return f"json_extract({self._bind(repr(value))}, '$')"

    def _bind(self, value: Parameter) -> str:
        self.parameters.append(value)
        return "?"


def _names(types: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in types)


def _truths(values: Sequence[Value]) -> tuple[str, ...]:
    """Return the types that JSON values equal to some truth values have in SQLite."""
    return tuple(map(literal, values))


# Expressions of Milvus.


def to_milvus(node: Node) -> str:
    """Print a filter as an expression of Milvus; "" keeps all records.

    Versions of Milvus differ in `not` where a key is missing or has a value of another kind, so
    negations are pushed down to the comparisons. On Milvus Lite, true equals 1, patterns have no
    escapes, and a list or an object is neither below a number nor not below it.
    """
    return "" if node == EVERYTHING else _milvus(node, keep=True)


def _milvus(node: Node, *, keep: bool) -> str:
    """Print a node, or its negation if not `keep`."""
    if isinstance(node, Not):
        return _milvus(node.part, keep=not keep)
    if isinstance(node, Joined):
        is_and = (node.word == "and") == keep
        parts = [f"({_milvus(part, keep=keep)})" for part in node.parts]
        return (" and " if is_and else " or ").join(parts) or f'{ID} {"!=" if is_and else "=="} ""'
    path = node.field.name + "".join(f"[{literal(key)}]" for key in node.field.keys)
    missing = f"not (exists {path}) or " if node.field.keys else ""
    match node:
        case In(_, values) if missing:
            # Lite supports `in` for columns only.
            sign, word = ("==", " or ") if keep else ("!=", " and ")
            text = word.join(f"{path} {sign} {literal(value)}" for value in values)
            return text if keep else f"{missing}({text})"
        case In(_, (value,)):
            text = f"{path} == {literal(value)}"
        case In(_, values):
            text = f"{path} in {listed(values)}"
        case Exists():
            text = f"exists {path}"
        case Like(_, pattern):
            text = f"{path} like {quoted(pattern)}"
        case Contains(_, values):
            text = f"{'json' if missing else 'array'}_contains_any({path}, {listed(values)})"
        case Compare(_, operator, value):
            text = f"{path} {operator} {value.name if isinstance(value, Field) else literal(value)}"
            if missing:
                # On Lite such a comparison is neither true nor false for a value of another kind,
                # also after `not`. `like "%"` is true for every text.
                is_text = f'{path} like "%"'
                missing += f"not ({is_text}) or " if isinstance(value, str) else f"{is_text} or "
    return text if keep else f"{missing}not ({text})"
