"""The list of public names, tests/public_names.txt, that the rule of deprecation is about.

python tests/public_names.py    writes the list again after names were added or deprecated

A line is a name: a function of `coca` with its parameters, a command with an option, a setting of a
recipe, or a field of a route of the service.
"""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock, patch

import typer.main
from typer.testing import CliRunner

import coca
from coca.cli.app import app
from coca.core.config.frozen_config import Config
from coca.core.registry import Registry
from coca.predict.predictor import Predictor
from coca.search.search_options import QueryOptions
from coca.server.app import create_app
from coca.server.service import Service
from coca.server.settings import ServerSettings

FILE = Path(__file__).with_suffix(".txt")
KINDS = ("pretrain", "finetune", "task", "suite")
"""Kinds of recipes."""


def names() -> set[str]:
    """Return all public names."""
    return {*python_names(), *options(), *settings(), *fields()}


def python_names() -> Iterator[str]:
    """Yield what can be imported from `coca`, with parameters, and the members of its classes."""
    for name in coca.__all__:
        value = getattr(coca, name)
        if inspect.isclass(value):
            if issubclass(value, Config):
                value.model_rebuild()  # before it, the signature has no names
            yield f"coca.{name}({', '.join(inspect.signature(value).parameters)})"
            yield from (f"coca.{name}.{field}" for field in getattr(value, "model_fields", ()))
            for member, found in vars(value).items():
                if not member.startswith(("_", "model_")):
                    yield f"coca.{name}.{member}{parameters(found)}"
        else:
            yield f"coca.{name}{parameters(value)}"
    yield from (f"search option: {name}" for name in QueryOptions.model_fields)


def parameters(value: Any) -> str:
    """Format the parameters of a function by name; empty for another value."""
    function = inspect.unwrap(getattr(value, "__func__", value))
    if not inspect.isfunction(function):
        return ""
    found = [one for one in inspect.signature(function).parameters if one not in ("self", "cls")]
    return f"({', '.join(found)})"


def options(group: Any = None, name: str = "coca") -> Iterator[str]:
    """Yield the commands with their arguments and options."""
    command = group or typer.main.get_command(app)
    for child, below in getattr(command, "commands", {}).items():
        yield from options(below, f"{name} {child}")
    for parameter in command.params:
        names = [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "argument":
            names = [parameter.name.upper()]
        yield from (f"{name} {one}" for one in names)


def settings() -> Iterator[str]:
    """Yield the settings of each kind of recipe."""
    for kind in KINDS:
        done = CliRunner().invoke(app, ["config", "keys", kind, "--json"])
        yield from (f"recipe {kind}: {row['key']}" for row in json.loads(done.stdout))


def fields() -> Iterator[str]:
    """Yield the routes of the service, with the fields of their requests and responses."""
    able = Mock(spec=Predictor, has_decoder=True, answers_questions=True)
    parts = {"keys": SimpleNamespace(are_needed=False), "model": SimpleNamespace(predictor=able)}
    service = cast("Service", SimpleNamespace(**parts))
    # Without the routes of plug-ins, and past the type checks of the tests, since no collection is
    # open.
    with patch("coca.server.app.ROUTES", Registry("routes")):
        schema = inspect.unwrap(create_app)(service, ServerSettings()).openapi()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            route = f"{method.upper()} {path}"
            yield route
            yield from (f"{route} ?{one['name']}" for one in operation.get("parameters", ()))
    for name, model in schema["components"]["schemas"].items():
        yield from (f"schema {name}: {field}" for field in model.get("properties", ()))


if __name__ == "__main__":
    FILE.write_text("".join(f"{name}\n" for name in sorted(names())), encoding="utf-8")
