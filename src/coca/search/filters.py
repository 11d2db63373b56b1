"""Filter expressions for values from outside, quoted so that no value can change the meaning.

Lite and old servers take no parameters in a filter, so the quoting happens here.
"""

from collections.abc import Sequence
from typing import TypeAlias

from coca.core.errors import SearchError
from coca.search.records import CAPTION, ID, PATH

Value: TypeAlias = str | int | float | bool

_COLUMNS = (ID, PATH, CAPTION)
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


def where(field: str, operator: str, value: Value | Sequence[Value]) -> str:
    r"""A filter expression that compares one field with a value, whatever the value holds.

    Join several with `and`, `or`, `not` and parentheses.

    Args:
        field: `"id"`, `"path"`, `"caption"`, or `"metadata.KEY"` for any key of the metadata.
        operator: One of `== != < <= > >=`, or `in` with a list.
        value: Text, number or truth value; for `in`, a list of them.

    Raises:
        SearchError: Unknown field or operator, or a value that no filter can hold.

    Example:
        >>> where("metadata.equipment", "==", 'a "heavy" bar')
        'metadata["equipment"] == "a \\"heavy\\" bar"'
    """
    if field.startswith("metadata."):
        field = f"metadata[{_literal(field.removeprefix('metadata.'))}]"
    elif field not in _COLUMNS:
        raise SearchError(
            f"no filter on {field!r}: fields are {', '.join(_COLUMNS)} and metadata.KEY"
        )
    if operator == "in":
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise SearchError(f"`in` needs a list of values, not {value!r}")
        # Lite knows `in` for columns only, so both are spelled out.
        either = " or ".join(f"{field} == {_literal(one)}" for one in value)
        return f"({either})" if either else f'({ID} == "")'
    if operator not in _COMPARISONS:
        raise SearchError(f"no operator {operator!r}: use one of {' '.join(_COMPARISONS)} or in")
    return f"{field} {operator} {_literal(value)}"


def quoted(text: str) -> str:
    """The text as a literal of a filter."""
    return f'"{text.translate(_ESCAPES)}"'


def _literal(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value)
        case int():
            return str(value)
        case float() if value - value == 0:  # finite
            return repr(value)
    raise SearchError(f"a filter compares text, numbers and truth values, not {value!r}")
