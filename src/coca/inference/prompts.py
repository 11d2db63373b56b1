"""Sentences that a class name is put into, so that it reads like a caption."""

from collections.abc import Sequence

from coca.core.errors import ConfigError

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
    "drawing": ("{}", "a drawing of {}", "a picture of {}", "an icon of {}"),
}
"""Named sets; `photo` for photographs, `drawing` for icons and emoji, `plain` for bare names."""


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
