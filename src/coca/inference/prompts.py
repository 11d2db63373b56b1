"""Sentences that a class name is put into, so that it reads like a caption."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import yaml

from coca.core.errors import ConfigError
from coca.inference.inputs import as_texts
from coca.processing.prompts import CLIP_PROMPTS

Templates: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]]
"""Sentences with `{}` for a label, or to each label its own sentences; a single one is a text."""

PROMPTS: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    # The seven that CLIP's authors found to do most of the work of their 80.
    "photo": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
    "drawing": ("{}", "a drawing of {}", "an image of {}", "an icon of {}"),
    "clip": CLIP_PROMPTS,
}
"""Named sets; `photo` for photographs, `clip` for all 80 of CLIP, `drawing` for icons and emoji,
`plain` for bare names."""


def prompts_named(name: str) -> tuple[str, ...]:
    """Gives the templates of a named set, or a single template if `name` holds `{}`.

    Raises:
        ConfigError: Neither a known set nor a template.
    """
    if "{}" in name:
        return (name,)
    if name not in PROMPTS:
        raise ConfigError(
            f"{name!r} is no prompt set; choose one of {', '.join(PROMPTS)}, or a template with "
            "{} where the label goes"
        )
    return PROMPTS[name]


def templates_named(name: str) -> Templates:
    """Gives what `prompts_named` gives, or the content of a YAML or JSON file of prompts.

    A file holds a list of templates, or an object that gives each class a list of sentences, as
    those who let a language model describe the classes publish them.

    Raises:
        ConfigError: None of these, or the file is missing or holds something else.
    """
    path = Path(name)
    if path.suffix not in (".json", ".yaml", ".yml"):
        return prompts_named(name)
    try:
        # JSON is YAML, too.
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the prompts {name} cannot be read: {error}") from error
    lists = content.values() if isinstance(content, dict) else [content]
    if not all(isinstance(it, list) and all(isinstance(one, str) for one in it) for it in lists):
        raise ConfigError(
            f"the prompts {name} hold {content!r:.60}; right is a list of sentences, or such a "
            "list for each class"
        )
    return content


def sentences_of(labels: Sequence[str], templates: Templates) -> list[list[str]]:
    """Gives the sentences of each label.

    Raises:
        ConfigError: No label, the same label twice, one without sentences, or a template without
            `{}`.
    """
    if not labels:
        raise ConfigError("there is no label; at least one is needed, such as 'cat'")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ConfigError(f"the label {twice!r} stands there twice; each needs its own name")
    if not isinstance(templates, Mapping):
        return [fill(as_texts(templates), label) for label in labels]
    if without := [label for label in labels if not templates.get(label)]:
        raise ConfigError(
            f"{len(without)} of {len(labels)} classes have no prompt, such as {without[0]!r}; give "
            "each at least one sentence"
        )
    return [[text.replace("{}", label) for text in as_texts(templates[label])] for label in labels]


def fill(templates: Sequence[str], label: str) -> list[str]:
    """Puts a label into each template.

    Raises:
        ConfigError: A template has no `{}`, or there is none at all.
    """
    for template in templates:
        if "{}" not in template:
            raise ConfigError(f"the template {template!r} has no {{}} for the label")
    if not templates:
        raise ConfigError("at least one template is needed, such as '{}'")
    return [template.replace("{}", label) for template in templates]
