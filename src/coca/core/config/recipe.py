"""Recipes: YAML files and `a.b=value` overrides, parsed to plain trees and merged.

Plain types are dict with str keys, list, str, int, float, bool and None. A recipe has one variable,
the root folder of its data: the key `data_root`, referenced as `${data_root}`.
"""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import to_jsonable_python

from coca.core.config.fields import Tree
from coca.core.errors import ConfigError

DATA_ROOT = "data_root"

_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that parses `1e-3` as a number and rejects duplicate keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked before `<<` is expanded, which may repeat a key intentionally.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    twice = f"the key {key.value!r} is given twice"
                    raise yaml.MarkedYAMLError(problem=twice, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


# YAML 1.1 requires a dot and a signed exponent, so `1e-3` would be a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_recipe(path: Path) -> Tree:
    """Read the settings of a YAML file."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"is not UTF-8 text: {error.reason}") from error
    tree = _parse(text, f"the recipe {path}")
    if not isinstance(tree, dict):
        found = "is empty" if tree is None else f"contains a {type(tree).__name__}"
        raise ConfigError(f"the recipe {path} {found}; it should contain lines such as `seed: 1`")
    return tree


def _unreadable(path: Path, problem: str) -> ConfigError:
    """Return the error of a recipe; for data in place of one, with their setting."""
    if path.suffix in (".yaml", ".yml"):
        return ConfigError(f"the recipe {path} {problem}")
    data = f"data.sources=[{{kind: {path.suffix[1:] or 'folder'}, path: {path}}}]"
    return ConfigError(
        f"{path} is not a recipe, a YAML file or recipe:NAME of the package ({problem}); data are "
        f"a setting of a recipe: {shlex.quote(data)}"
    )


def parse_override(text: str) -> Tree:
    """Parse an override `a.b=value`, whose value is YAML, to a tree."""
    dotted, equals, value = text.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"the override {text!r} should look like section.field=value")
    if any(value.count(opening) > value.count(closing) for opening, closing in ("[]", "{}")):
        raise ConfigError(
            f"the override {text!r} has no closing bracket: quote an override with spaces, such as "
            f"'{dotted}=[1, 2]'"
        )
    tree = _parse(value, f"the override {text!r}")
    for key in reversed(keys):
        tree = {key: tree}
    return tree


def merge(base: Any, over: Any) -> Any:
    """Merge `over` into `base`: mappings merge key by key, other values are replaced.

    Two rules support nested overrides: a string is the section `{preset: string}`, and a mapping
    whose keys are positions changes those items of a list. The arguments are not modified.
    """
    if not isinstance(over, dict):
        return over
    if isinstance(base, str):
        base = {"preset": base}
    if (
        isinstance(base, list)
        and over
        and all(key.isdecimal() and int(key) < len(base) for key in over)
    ):
        return [merge(item, over.get(str(at), item)) for at, item in enumerate(base)]
    if not isinstance(base, dict):
        return over
    return base | {key: merge(base.get(key), value) for key, value in over.items()}


def missing_root(tree: Tree) -> str:
    """Return the error of a local `data_root` that strings refer to and that does not exist."""
    root = str(tree.get(DATA_ROOT)) if DATA_ROOT in _VARIABLE.findall(json.dumps(tree)) else "."
    if "://" in root or Path(root).expanduser().exists():
        return ""
    return (
        f"the recipe reads its data from the folder {root}, which does not exist: set "
        "data_root=FOLDER; the comment at its top names the download and the expected files"
    )


def fill_in(tree: Tree, *, given: bool = False) -> Tree:
    """Substitute `${data_root}` in all strings and remove the key `data_root`."""
    rest = json.dumps({key: value for key, value in tree.items() if key != DATA_ROOT})
    names = set(_VARIABLE.findall(rest))
    if unknown := sorted(names - {DATA_ROOT}):
        raise ConfigError(f"${{{unknown[0]}}} is unknown; a recipe may name ${{{DATA_ROOT}}} only")
    root = tree.get(DATA_ROOT)
    if names and not (isinstance(root, str) and root):
        found = "is missing" if root is None else f"is {root!r}"
        raise ConfigError(f"{DATA_ROOT} {found}; it must be the folder or URL of the data")
    if given and not names:
        raise ConfigError(
            f"{DATA_ROOT} = {root!r} changes nothing: no path here begins with ${{{DATA_ROOT}}}"
        )
    folder = json.dumps(os.path.expanduser(str(root)).rstrip("/"))[1:-1]
    filled: Tree = json.loads(rest.replace(f"${{{DATA_ROOT}}}", folder))
    return filled


def _parse(text: str, source: str) -> Any:
    try:
        return to_jsonable_python(yaml.load(text, _Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" (line {mark.line + 1})" if mark and mark.buffer and "\n" in mark.buffer else ""
        raise ConfigError(f"{source}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: raised by YAML's parsers of dates and numbers, such as for 2024-13-40.
        raise ConfigError(f"{source}: {' '.join(str(error).split())}") from error
