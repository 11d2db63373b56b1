"""Option groups: a command takes a dataclass as one parameter, and its fields become options.

A field declares its option by `typer.Option`, or is a field of a configuration. Its option then has
the name, the docstring, the range and the default of the field.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer

from coca.core.config.docs import docstrings, field_types, limits_of, without_none, without_range


@dataclass(frozen=True, kw_only=True)
class Group:
    """How the options of a configuration appear in the help of a command."""

    panel: str
    """Title of the options in the help."""
    short: Mapping[str, str] = field(default_factory=dict)
    """Field -> its short option, such as `-n`."""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command: expand each parameter that is a dataclass into its options.

    A configuration is annotated with its `Group`: `Annotated[GenerationConfig, Group(panel=...)]`.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {
        name: without_range(hint)
        for name, hint in hints.items()
        if is_dataclass(without_range(hint))
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _options_of(hints[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    def expanded(**options: Any) -> None:
        for name, group in groups.items():
            own = {field.name: options.pop(field.name) for field in fields(group)}
            options[name] = group(**own)
        command(**options)

    functools.update_wrapper(expanded, command)
    del expanded.__dict__["__wrapped__"]
    by_keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    expanded.__dict__["__signature__"] = inspect.Signature(by_keyword)
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    return expanded


def _options_of(hint: Any) -> Iterator[inspect.Parameter]:
    """Yield the option of each field of a group."""
    kind = without_range(hint)
    settings = next((one for one in get_args(hint)[1:] if isinstance(one, Group)), None)
    texts = docstrings(kind) if settings else {}
    for each in fields(kind):
        annotation = field_types(kind)[each.name]
        if settings:
            text = _in_options(texts[each.name], kind)
            annotation = _option(each.name, annotation, each.default, text, settings)
        yield inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=annotation
        )


def _option(name: str, hint: Any, default: Any, text: str, group: Group) -> Any:
    """Annotate the type of a configuration field with its option."""
    inner = without_none(hint)
    kind, span = without_range(inner), limits_of(inner).removeprefix(" of").strip().capitalize()
    option = typer.Option(
        _flag(name),
        *([group.short[name]] if name in group.short else []),
        # Typer's own bounds are inclusive, so the configuration checks the range.
        help=f"{text} {span}." if span else text,
        show_default=default is not None,
        rich_help_panel=group.panel,
    )
    return Annotated[kind if inner is hint else kind | None, option]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _in_options(text: str, kind: type) -> str:
    """Replace field names of a docstring, which are in backticks, by their options."""
    names = {field.name for field in fields(kind)}
    return re.sub(
        r"`(\w+)`", lambda found: _flag(found[1]) if found[1] in names else found[0], text
    )
