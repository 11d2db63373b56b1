"""Filters evaluated in plain Python, one record at a time: the reference for all stores."""

import re
from collections.abc import Callable
from operator import eq, ge, gt, le, lt
from typing import Any

from coca.search.filter_language import (
    Compare,
    Contains,
    Exists,
    Field,
    In,
    Joined,
    Like,
    Node,
    Not,
    parse,
)
from coca.search.records import Record

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge, "==": eq}


def keeps(filter: str | Node, record: Record) -> bool:
    """Return whether a filter keeps a record."""
    node = parse(filter) if isinstance(filter, str) else filter
    match node:
        case Not(part):
            return not keeps(part, record)
        case Joined(word, parts):
            join = all if word == "and" else any
            return join(keeps(part, record) for part in parts)
        case Compare(field, sign, value):
            stored = _stored(field, record)
            other = _stored(value, record) if isinstance(value, Field) else value
            return _kind(stored) == _kind(other) and _ORDERS[sign](stored, other)
        case In(field, values):
            return _is_one_of(_stored(field, record), values)
        case Like(field, pattern):
            stored = _stored(field, record)
            return isinstance(stored, str) and _matches(pattern, stored)
        case Exists(field):
            return _stored(field, record) is not None
        case Contains(field, values):
            stored = _stored(field, record)
            return isinstance(stored, list | tuple) and any(_is_one_of(it, values) for it in stored)


def _stored(field: Field, record: Record) -> Any:
    value = getattr(record, field.name)
    for key in field.keys:
        if isinstance(key, str):
            value = value.get(key) if isinstance(value, dict) else None
        else:
            value = value[key] if isinstance(value, list) and key < len(value) else None
    return value


def _kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def _is_one_of(stored: Any, values: tuple[Any, ...]) -> bool:
    return any(_kind(stored) == _kind(value) and stored == value for value in values)


def _matches(pattern: str, text: str) -> bool:
    wildcards = {"%": ".*", "_": "."}
    parts = re.findall(r"\\[%_\\]|.", pattern, re.DOTALL)
    regex = "".join(wildcards.get(part) or re.escape(part[-1]) for part in parts)
    return re.fullmatch(regex, text, re.DOTALL) is not None
