"""Parser of the filter language; `coca.search.filter_printers` prints its trees for the stores.

The language is a subset of Milvus' expression language: comparisons of columns and of metadata,
`in`, `like`, `exists` and the functions on lists, joined by `and`, `or` and `not`. Logic has two
values. A comparison with a metadata key is true only if the record has the key with a value of the
same kind (text, number, or truth value), so a filter and its negation split all records.
"""

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NoReturn, TypeAlias, get_args

from coca.core.errors import ArgumentError
from coca.search import records
from coca.search.records import CAPTION_SOURCE, HIDDEN, METADATA, TAGS, CaptionSource

Value: TypeAlias = str | int | float | bool

TEXTS = (records.ID, records.PATH, records.CONTENT, records.CAPTION, CAPTION_SOURCE, records.ALBUM)
NUMBERS = (records.WIDTH, records.HEIGHT, records.TIME)
COLUMNS = (*TEXTS, *NUMBERS, HIDDEN, TAGS, METADATA)
"""Columns of the language: of text, of whole numbers, and others."""

MAX_CHARACTERS = 2_000_000
MAX_COMPARISONS = 500
"""SQLite allows expressions 1,000 levels deep, and joins of so many parts are as deep."""
MAX_DEPTH = 30
"""Maximum nesting depth of parentheses and negations."""
MAX_KEYS = 8
"""Maximum nesting depth of a key of the metadata."""
MAX_PATTERN = 4_096
"""Maximum length of a pattern of `like`, in characters."""
_CACHED_CHARACTERS = 4_096
"""Longer filters, such as lists of ids, would fill the cache of parsed filters."""
_LARGEST = 2**63 - 1

# The tree.


@dataclass(frozen=True, slots=True)
class Field:
    """A column, or a value inside the metadata."""

    name: str
    keys: tuple[str | int, ...] = ()
    """Keys and positions that lead to a value of the metadata; empty for a column."""


@dataclass(frozen=True, slots=True)
class Compare:
    """Comparison by `<`, `<=`, `>` or `>=`; that of two number columns also by `==`."""

    field: Field
    operator: str
    value: Value | Field


@dataclass(frozen=True, slots=True)
class In:
    """Whether a value is one of some values of one kind; `==` is `in` with one value."""

    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Like:
    r"""Case-sensitive match of a whole text; `%` and `_` are wildcards, `\%` and `\_` are not."""

    field: Field
    pattern: str


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether a key of the metadata has a value other than null."""

    field: Field


@dataclass(frozen=True, slots=True)
class Contains:
    """Whether a list has at least one of some values of one kind."""

    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Negation."""

    part: "Node"


@dataclass(frozen=True, slots=True)
class Joined:
    """Conjunction, true without parts; or disjunction, false without parts."""

    word: Literal["and", "or"]
    parts: tuple["Node", ...]


Node: TypeAlias = Compare | In | Like | Exists | Contains | Not | Joined
EVERYTHING = Joined("and", ())


def parse(text: str) -> Node:
    """Parse a filter; an empty filter keeps all records.

    Raises:
        ArgumentError: It is not in the language; the message has the position and the reason.
    """
    if not isinstance(text, str):
        raise ArgumentError(f"the filter must be a str such as 'width > 100', got {text!r}")
    return _parsed(text) if len(text) <= _CACHED_CHARACTERS else _parsed.__wrapped__(text)


@lru_cache(maxsize=512)
def _parsed(text: str) -> Node:
    return _Parser(text).parse()


def columns_in(node: Node) -> set[str]:
    """List the columns that a filter reads."""
    match node:
        case Not(part):
            return columns_in(part)
        case Joined(_, parts):
            return set().union(*map(columns_in, parts))
        case Compare(field, _, Field() as other):
            return {field.name, other.name}
        case _:
            return {node.field.name}


def conditions_of(text: str) -> list[str]:
    """Split a filter into the conditions that must all hold; none for an empty filter."""
    tree, parts, begun = parse(text), list[str](), ""
    if tree == EVERYTHING:
        return []
    for piece in text.split(" and "):
        # A piece with an open quote or parenthesis goes on.
        begun += f" and {piece}" if begun else piece
        with suppress(ArgumentError):
            parse(begun)
            parts.append(begun)
            begun = ""
    wanted = tree.parts if isinstance(tree, Joined) and tree.word == "and" else (tree,)
    return parts if tuple(map(parse, parts)) == wanted else [text]


def kind_of(value: Value) -> Literal["text", "number", "truth"]:
    """Return the kind of a value; only values of one kind are comparable."""
    if isinstance(value, str):
        return "text"
    return "truth" if isinstance(value, bool) else "number"


def _by_kind(field: Field, values: Sequence[Value], make: type[In] | type[Contains]) -> Node:
    """Build one node for the values of each kind."""
    kinds = dict.fromkeys(map(kind_of, values))
    parts: list[Node] = [
        make(field, tuple(value for value in values if kind_of(value) == kind)) for kind in kinds
    ]
    return parts[0] if len(parts) == 1 else Joined("or", tuple(parts))


# The parser.

_TEXT = r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'"
_TOKEN = re.compile(
    rf"(?P<text>{_TEXT})|(?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<word>[^\W\d]\w*)|(?P<sign>==|!=|<=|>=|&&|\|\||[<>!()\[\],])|(?P<end>\Z)",
    re.DOTALL | re.ASCII,
)
_SPACE = re.compile(r"\s*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "%": "\\%", "_": "\\_"} | {c: c for c in "\"'\\"}
_KINDS = dict.fromkeys(TEXTS, "text") | dict.fromkeys(NUMBERS, "number") | {HIDDEN: "truth"}
_NAMES = {"text": "texts", "number": "whole numbers", "truth": "true or false, by == or !="}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_WORDS = {"&&": "and", "||": "or", "!": "not"}
_KEYWORDS = ("and", "or", "not", "in", "like", "exists", "true", "false")
_FUNCTION = re.compile(r"(?:array|json)_contains(_any|_all)?")


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._text, self._depth, self._comparisons = text, 0, 0
        self._at = self._end = 0
        if len(text) > MAX_CHARACTERS:
            raise ArgumentError(
                f"the filter has {len(text):,} characters; at most {MAX_CHARACTERS:,} are allowed"
            )
        self._advance()

    def parse(self) -> Node:
        """Parse the whole text."""
        if self._kind == "end":
            return EVERYTHING
        node = self._either()
        if self._kind != "end":
            self._fail("expected `and`, `or` or the end")
        return node

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        at = self._at if at is None else at
        rest = self._text[at : at + 30]
        shown = f", {rest!r}" if rest else ""
        raise ArgumentError(f"the filter has an error at character {at + 1}{shown}: {reason}")

    def _advance(self) -> None:
        self._at = _SPACE.match(self._text, self._end).end()  # type: ignore[union-attr]
        token = _TOKEN.match(self._text, self._at)
        if token is None or token.lastgroup is None:
            if self._text[self._at] in "\"'":
                self._fail("the text has no closing quote")
            self._fail("no such operator; operators are == != < <= > >= in like and or not")
        self._kind, self._token, self._end = token.lastgroup, token[0], token.end()
        word = _WORDS.get(self._token, self._token.lower())
        if self._kind in ("word", "sign") and word in _KEYWORDS:
            self._kind, self._token = "keyword", word

    def _accept(self, *tokens: str) -> str:
        """Take the next token if it is one of these signs or keywords; return it or ""."""
        if self._kind not in ("sign", "keyword") or self._token not in tokens:
            return ""
        token = self._token
        self._advance()
        return token

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            self._fail(f"expected `{sign}`")

    def _either(self) -> Node:
        return self._joined("or", lambda: self._joined("and", self._negation))

    def _joined(self, word: Literal["and", "or"], read: Callable[[], Node]) -> Node:
        parts = [read()]
        while self._accept(word):
            parts.append(read())
        return parts[0] if len(parts) == 1 else Joined(word, tuple(parts))

    def _negation(self) -> Node:
        opening = self._accept("not", "(")
        if not opening:
            return self._atom()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"parentheses and negations may be nested {MAX_DEPTH} deep")
        node = Not(self._negation()) if opening == "not" else self._either()
        self._depth -= 1
        if opening == "(":
            self._expect(")")
        return node

    def _atom(self) -> Node:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            self._fail(f"a filter may have {MAX_COMPARISONS:,} comparisons; `in` takes a list")
        if self._accept("exists"):
            return Exists(self._key())
        function = self._kind == "word" and _FUNCTION.fullmatch(self._token.lower())
        return self._contains(function[1] or "") if function else self._comparison()

    def _contains(self, which: str) -> Node:
        self._advance()
        self._expect("(")
        field = Field(TAGS) if self._token == TAGS else self._key()
        if field.name == TAGS:
            self._advance()
        self._expect(",")
        start = self._at
        values = self._values() if which else [self._value()]
        if field.name == TAGS and not all(isinstance(value, str) for value in values):
            self._fail("tags are texts", start)
        self._expect(")")
        if which == "_all":
            self._comparisons += len(values)
            return Joined("and", tuple(Contains(field, (value,)) for value in values))
        return _by_kind(field, values, Contains)

    def _comparison(self) -> Node:
        start = self._at
        left = self._operand()
        if isinstance(left, Field):
            if self._accept("like"):
                pattern = self._value()
                if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
                    self._fail(f"`like` needs a text of at most {MAX_PATTERN:,} characters")
                self._check(left, [pattern], start)
                return Like(left, pattern)
            inverted = bool(self._accept("not"))
            if self._accept("in"):
                node = self._in(left, self._values(), start)
                return Not(node) if inverted else node
            if inverted:
                self._fail("expected `in` after `not`")
        operator = self._accept(*_MIRRORED)
        if not operator:
            self._fail("expected a comparison such as == or in")
        middle = self._operand()
        first = self._compared(left, operator, middle, start)
        following = self._accept(*_MIRRORED)
        if not following:
            return first
        if following[0] != operator[0] or operator[0] not in "<>" or isinstance(left, Field):
            self._fail("a chain is a range, such as 1 < width <= 10")
        return Joined("and", (first, self._compared(middle, following, self._operand(), start)))

    def _compared(
        self, left: Field | Value, operator: str, right: Field | Value, start: int
    ) -> Node:
        """Build the comparison of a field with a value, or of two columns of numbers."""
        if not isinstance(left, Field):
            left, operator, right = right, _MIRRORED[operator], left
        if not isinstance(left, Field):
            self._fail("one side of a comparison must be a column", start)
        if isinstance(right, Field):
            if left.name not in NUMBERS or right.name not in NUMBERS:
                self._fail(f"columns compared with each other are {', '.join(NUMBERS)}", start)
            node: Node = Compare(left, "==" if operator == "!=" else operator, right)
        elif operator in ("==", "!="):
            node = self._in(left, [right], start)
        else:
            self._check(left, [right], start)
            if isinstance(right, bool):
                self._fail("true and false have no order; compare them by == or !=", start)
            return Compare(left, operator, right)
        return Not(node) if operator == "!=" else node

    def _in(self, field: Field, values: list[Value], start: int) -> Node:
        self._check(field, values, start)
        sources = get_args(CaptionSource)
        if field.name == CAPTION_SOURCE and not set(values) <= set(sources):
            self._fail(f"{CAPTION_SOURCE} is one of {', '.join(map(repr, sources))}", start)
        return _by_kind(field, values, In)

    def _check(self, field: Field, values: Sequence[Value], start: int) -> None:
        """Check that a column is compared with values of its kind; metadata have any."""
        kind = _KINDS.get(field.name)
        for value in values:
            if kind and (kind_of(value) != kind or isinstance(value, float)):
                self._fail(f"{field.name} is compared with {_NAMES[kind]}, got {value!r}", start)

    def _operand(self) -> Field | Value:
        if self._kind != "word":
            return self._value()
        name = self._token
        if name == METADATA:
            return self._key()
        if name == TAGS:
            self._fail('tags have array_contains(tags, "a"), array_contains_any and _all')
        if name not in COLUMNS:
            self._fail(f'no such column; columns are {", ".join(COLUMNS[:-1])} and metadata["key"]')
        self._advance()
        return Field(name)

    def _key(self) -> Field:
        """Read `metadata["key"]`, with any number of further keys and positions."""
        if self._kind != "word" or self._token != METADATA:
            self._fail('expected a key of the metadata, such as metadata["year"]')
        self._advance()
        keys: list[str | int] = []
        while self._accept("["):
            key = self._value()
            if isinstance(key, bool | float) or (isinstance(key, int) and key < 0):
                self._fail("a key of the metadata is a text, or a position from 0")
            keys.append(key)
            self._expect("]")
        if not keys or isinstance(keys[0], int) or len(keys) > MAX_KEYS:
            self._fail(f'metadata needs 1 to {MAX_KEYS} keys, such as metadata["year"]')
        return Field(METADATA, tuple(keys))

    def _values(self) -> list[Value]:
        self._expect("[")
        values: list[Value] = []
        while not self._accept("]"):
            if values:
                self._expect(",")
            values.append(self._value())
        return values

    def _value(self) -> Value:
        value: Value
        match self._kind:
            case "text":
                value = _ESCAPE.sub(self._unescaped, self._token[1:-1])
                try:
                    value.encode()
                except UnicodeEncodeError:
                    self._fail("the text has characters that are not valid Unicode")
            case "number":
                whole = self._token.removeprefix("-").isdigit()
                value = float(self._token)
                if whole and abs(value) <= 2 * _LARGEST:
                    # int() refuses thousands of digits, also zeros in front.
                    digits = self._token.lstrip("-0") or "0"
                    value = -int(digits) if self._token.startswith("-") else int(digits)
                if abs(value) > (_LARGEST if whole else sys.float_info.max):
                    self._fail(f"the number is too large; whole numbers reach {_LARGEST:,}")
            case "keyword" if self._token in ("true", "false"):
                value = self._token == "true"
            case _:
                self._fail("expected a text in quotes, a number, true or false")
        self._advance()
        return value

    def _unescaped(self, escape: re.Match[str]) -> str:
        if escape[1] not in _ESCAPED:
            self._fail(f"unknown escape {escape[0]!r}; a backslash is written as two")
        return _ESCAPED[escape[1]]
