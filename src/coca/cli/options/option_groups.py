"""Option groups: a command takes a configuration or a dataclass, whose fields become options.

A field declares its option by `typer.Option`. Otherwise the option has the name, the docstring, the
range and the default of the field.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any, get_args, get_type_hints

import typer
from pydantic.fields import FieldInfo
from typer.models import CommandFunctionType

from coca.core.config.fields import hint_of, limits_of, text_of, without_none, without_range
from coca.core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """How the options of a configuration appear in the help of a command."""

    panel: str
    """Title of the options in the help."""
    short: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Field -> its short option, such as `-n`."""
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Field -> its name as an option, where it has another."""
    only: Collection[str] | None = None
    """Fields that are options. Default: all."""


class Commands(typer.Typer):
    """Commands whose parameters that are configurations become options, by `grouped`."""

    def command(
        self, *arguments: Any, **settings: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Return a decorator that adds a command, as that of Typer."""
        register = super().command(*arguments, **settings)

        def add(command: CommandFunctionType) -> CommandFunctionType:
            register(grouped(command))
            return command

        return add


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Expand each parameter of a command that is a configuration into its options.

    It may be annotated with its `Group`: `Annotated[GenerationConfig, Group(panel=...)]`.
    An optional one, such as `Annotated[Fusion | None, ...]`, is None unless one of its options is
    given.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if _fields_of(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _options_of(hints[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    def expanded(**options: Any) -> None:
        for name, hint in groups.items():
            own = {each: options.pop(_parameter(each, hint)) for each in _fields_of(hint)}
            options[name] = _built(hint, own)
        command(**options)

    functools.update_wrapper(expanded, command)
    del expanded.__dict__["__wrapped__"]
    by_keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    expanded.__dict__["__signature__"] = inspect.Signature(by_keyword)
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    return expanded


def _group_of(hint: Any) -> Group | None:
    return next((each for each in get_args(hint)[1:] if isinstance(each, Group)), None)


def _kind_of(hint: Any) -> Any:
    return without_none(without_range(hint))


def _fields_of(hint: Any) -> dict[str, FieldInfo]:
    """Return the fields of a group that are options: all but those whose default is computed."""
    group, kind = _group_of(hint), _kind_of(hint)
    fields: dict[str, FieldInfo] = getattr(kind, "model_fields", {})
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        fields = {
            each.name: FieldInfo.from_annotated_attribute(hints[each.name], each)
            for each in dataclasses.fields(kind)
        }
    only = fields if group is None or group.only is None else group.only
    return {
        name: field
        for name, field in fields.items()
        if name in only and field.default_factory is None and not field.is_required()
    }


def _built(hint: Any, values: Mapping[str, Any]) -> Any:
    """Build a group from its options, whose names replace those of the fields in errors."""
    group, kind = _group_of(hint), _kind_of(hint)
    if kind is not without_range(hint):
        values = {name: value for name, value in values.items() if value is not None}
        if not values:
            return None
    try:
        return kind(**values)
    except ConfigError as error:
        if group is None:
            raise
        text = re.sub(
            r"(?:(?<=; )|^)\w+(?= must be)",
            lambda match: _flag(match[0], group) if match[0] in values else match[0],
            str(error),
        )
        raise type(error)(text) from None


def _options_of(hint: Any) -> Iterator[inspect.Parameter]:
    """Yield the option of each field of a group."""
    group, kind = _group_of(hint), _kind_of(hint)
    for each, field in _fields_of(hint).items():
        annotation, default = hint_of(field), field.default
        if kind is not without_range(hint):
            annotation, default = annotation | None, None
        if group:
            text = _in_options(text_of(field), hint)
            annotation = _option(each, field.default, annotation, text, group)
        name = _parameter(each, hint)
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )


def _parameter(name: str, hint: Any) -> str:
    """Return the name of the parameter of a field: two groups may have fields of the same name."""
    group = _group_of(hint)
    return name if group is None else _flag(name, group)[2:].replace("-", "_")


def _option(name: str, default: Any, hint: Any, text: str, group: Group) -> Any:
    """Annotate the type of a configuration field with its option."""
    inner = without_none(hint)
    # An option is a text where Python may pass an object.
    kind = str if (kind := without_range(inner)) is Any else kind
    span = limits_of(getattr(inner, "__metadata__", ())).removeprefix(" of").strip().capitalize()
    flag = _flag(name, group)
    if kind is bool and default is not False:
        flag += f"/--no-{flag.removeprefix('--')}"
    option = typer.Option(
        flag,
        *([group.short[name]] if name in group.short else []),
        # Typer's own bounds are inclusive, so the configuration checks the range.
        help=f"{text} {span}." if span else text,
        # A text is shown where the option itself has no default, as in an optional group.
        show_default=inner is hint or (default is not None and str(default)),
        rich_help_panel=group.panel,
    )
    return Annotated[kind if inner is hint else kind | None, option]


def _flag(name: str, group: Group) -> str:
    return f"--{group.names.get(name, name).replace('_', '-')}"


def _in_options(text: str, hint: Any) -> str:
    """Replace field names of a docstring, which are in backticks, by their options."""
    group, names = _group_of(hint), _fields_of(hint)
    assert group is not None
    return re.sub(
        r"`(\w+)`",
        lambda match: _flag(match[1], group) if match[1] in names else match[0],
        text,
    )
