"""The page docs/options.md, formatted from the commands of `coca`; `make docs` writes it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer.main

from coca.cli.app import app

SHARED_BY = 3
"""An option with the same help in this many commands is described once.

Of two helps of one name the more frequent is shared.
"""

_HEAD = """# Options of every command

```sh
coca search "red car" --limit 5 --json
```

This page is written from the commands.
`coca --help` lists the commands, and `coca COMMAND --help` shows the options of one command.
An option is shown with its value, and with its default in brackets where it has one.
"""


def page() -> str:
    """Format the page."""
    root: Any = typer.main.get_command(app)
    commands = dict(leaves(root, "coca"))
    count = Counter(row(option) for command in commands.values() for option in options(command))
    # The most frequent help of each name comes last, and stays.
    by_name = {cells[0].split()[0]: cells for cells, _ in reversed(count.most_common())}
    shared = {cells for cells in by_name.values() if count[cells] >= SHARED_BY}
    parts = [
        _HEAD,
        "## Options of `coca` itself\n\nThey come before or after the command.\n",
        listed(map(row, options(root))),
        "## Shared options\n\nEach of these is an option of several commands.\n",
        listed(sorted(shared)),
        *(section(name, command, shared) for name, command in commands.items()),
    ]
    return "\n".join(parts)


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each command that is not a group, with its full name."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from leaves(inner, f"{name} {word}")


def options(command: Any) -> Iterator[Any]:
    """Yield the options of a command, without its arguments."""
    return (each for each in command.params if each.param_type_name == "option")


def section(name: str, command: Any, shared: set[tuple[str, str]]) -> str:
    """Format a command: its purpose, arguments, own options, and names of the shared options."""
    purpose = " ".join(command.help.partition("\n\n")[0].split())
    parts = [f"## {name}\n", f"{purpose}\n"]
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    if arguments:
        parts.append(listed(map(argument_row, arguments)))
    rows = [row(option) for option in options(command)]
    if own := [cells for cells in rows if cells not in shared]:
        parts.append(listed(own))
    if names := [cells[0].split()[0].rstrip(",") for cells in rows if cells in shared]:
        parts.append(f"[Shared](#shared-options): {', '.join(names)}.\n")
    return "\n".join(parts)


def listed(items: Iterable[tuple[str, str]]) -> str:
    """Format names and their meanings as a list."""
    return "".join(f"- {name}: {meaning}\n" for name, meaning in items)


def argument_row(argument: Any) -> tuple[str, str]:
    """Format an argument."""
    optional = "" if argument.required else " Optional."
    name = argument.metavar or argument.name.upper()
    return f"`{name}`", plain(argument.help or "") + optional


def row(option: Any) -> tuple[str, str]:
    """Format an option: its names, value and default, and its meaning."""
    names = [*option.opts, *option.secondary_opts]
    words = ", ".join(f"`{name}`" for name in names)
    value = "" if option.is_flag else f" {value_of(option)}"
    default = default_of(option)
    return f"{words}{value}" + (f" ({default})" if default else ""), meaning_of(option)


def value_of(option: Any) -> str:
    """Format the kind of value that an option takes."""
    kind = option.type_descriptor.annotation
    choices = getattr(kind, "__members__", None)
    words = [member.value for member in choices.values()] if choices else _literals(kind)
    if words:
        return f"`{'|'.join(words)}`"
    names = {"str": "text", "int": "integer", "float": "number", "Path": "path", "date": "day"}
    inner = getattr(kind, "__args__", (kind,))[0]
    return f"`{option.metavar}`" if option.metavar else names.get(inner.__name__, inner.__name__)


def _literals(kind: Any) -> list[str]:
    return [word for word in getattr(kind, "__args__", ()) if isinstance(word, str)]


def default_of(option: Any) -> str:
    """Format the default: the shown text where the option has one, else the value."""
    if isinstance(option.show_default, str):
        return f"`{option.show_default}`"
    value = option.default
    if option.required:
        return "required"
    if value is None or value is False or value in ((), [], ""):
        return ""
    return f"`{'on' if value is True else getattr(value, 'value', value)}`"


def meaning_of(option: Any) -> str:
    """Format the help, with the environment variable that sets the option."""
    variable = f" Environment: `{option.envvar}`." if isinstance(option.envvar, str) else ""
    return plain(option.help or "") + variable


def plain(text: str) -> str:
    """Write a help text in one line that a table of Markdown shows as it is."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    # Every second part is code, where a backslash would be shown.
    return "`".join(
        part if at % 2 else part.replace("<", "\\<").replace("*", "\\*")
        for at, part in enumerate(parts)
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace("| --- ", "|---")
