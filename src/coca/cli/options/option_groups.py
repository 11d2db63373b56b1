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
    sections: dict[str, _Section] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        section = _Section(hints[name])
        if section.fields:
            sections[name] = section
            parameters += section.parameters()
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    def expanded(**options: Any) -> None:
        for name, section in sections.items():
            options[name] = section.build(options)
        command(**options)

    functools.update_wrapper(expanded, command)
    del expanded.__dict__["__wrapped__"]
    by_keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    expanded.__dict__["__signature__"] = inspect.Signature(by_keyword)
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    return expanded


class _Section:
    """A parameter of a command, with the fields of its type that are options."""

    def __init__(self, hint: Any) -> None:
        self.kind = without_none(without_range(hint))
        self.is_optional = self.kind is not without_range(hint)
        groups = [extra for extra in get_args(hint)[1:] if isinstance(extra, Group)]
        self.group = groups[0] if groups else None
        fields: dict[str, FieldInfo] = getattr(self.kind, "model_fields", {})
        if dataclasses.is_dataclass(self.kind):
            hints = get_type_hints(self.kind, include_extras=True)
            fields = {
                each.name: FieldInfo.from_annotated_attribute(hints[each.name], each)
                for each in dataclasses.fields(self.kind)
            }
        only = fields if self.group is None or self.group.only is None else self.group.only
        # A default that is computed is not an option.
        self.fields = {
            name: field
            for name, field in fields.items()
            if name in only and field.default_factory is None and not field.is_required()
        }
        names = {} if self.group is None else self.group.names
        self.flags = {name: f"--{names.get(name, name).replace('_', '-')}" for name in self.fields}
        """Options of a group by field. Two groups may have fields of the same name."""

    def parameters(self) -> Iterator[inspect.Parameter]:
        """Yield the option of each field."""
        for name, field in self.fields.items():
            annotation, default = hint_of(field), field.default
            if self.is_optional:
                annotation, default = annotation | None, None
            if self.group is not None:
                annotation = self._option(name, field, annotation, self.group)
            yield inspect.Parameter(
                self._parameter(name),
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=annotation,
            )

    def build(self, options: dict[str, Any]) -> Any:
        """Take the values of the fields from the options of the command.

        Options replace the names of fields in errors.
        """
        values = {name: options.pop(self._parameter(name)) for name in self.fields}
        if self.is_optional:
            values = {name: value for name, value in values.items() if value is not None}
            if not values:
                return None
        try:
            return self.kind(**values)
        except ConfigError as error:
            if self.group is None:
                raise
            text = re.sub(
                r"(?:(?<=; )|^)\w+(?= must be)",
                lambda match: self.flags[match[0]] if match[0] in values else match[0],
                str(error),
            )
            raise type(error)(text) from None

    def _parameter(self, name: str) -> str:
        return name if self.group is None else self.flags[name][2:].replace("-", "_")

    def _option(self, name: str, field: FieldInfo, hint: Any, group: Group) -> Any:
        """Annotate the type of a field with its option."""
        inner, flag = without_none(hint), self.flags[name]
        # An option is a text where Python may pass an object.
        kind = str if (kind := without_range(inner)) is Any else kind
        span = limits_of(getattr(inner, "__metadata__", ())).removeprefix(" of").strip()
        # Fields of the same section are in backticks.
        text = re.sub(r"`(\w+)`", lambda match: self.flags.get(match[1], match[0]), text_of(field))
        if kind is bool and field.default is not False:
            flag += f"/--no-{flag.removeprefix('--')}"
        option = typer.Option(
            flag,
            *([group.short[name]] if name in group.short else []),
            # Typer's own bounds are inclusive, so the configuration checks the range.
            help=f"{text} {span.capitalize()}." if span else text,
            # A text is shown where the option itself has no default, as in an optional group.
            show_default=inner is hint or (field.default is not None and str(field.default)),
            rich_help_panel=group.panel,
        )
        return Annotated[kind if inner is hint else kind | None, option]
