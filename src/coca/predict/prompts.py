"""Prompt templates for zero-shot classification: sentences with `{}` for the class name.

CLIP's 80 templates: Radford et al. 2021 (arXiv 2103.00020), section 3.1.4, and the list published
with its code. 38 templates occur with "a" and with "the", and 4 more once; the grammar is the
authors'.

Dimensions: N images, K classes, M prompts of all classes, E embedding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from coca.core.errors import ConfigError
from coca.predict.inputs import as_texts

Templates: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]]
"""One or more prompts with `{}` for the label, or a mapping from each label to its prompts."""

_LOOKS = "bad, low resolution, cropped, bright, dark, close-up, black and white, pixelated, "
_LOOKS += "jpeg corrupted, blurry, good"
_THINGS = "hard to see, clean, dirty, cool, large, nice, weird, small"
_MADE_OF = "embroidered, plastic, origami, toy, cartoon, plushie"
_FORMS = "a sculpture, a rendering, graffiti, a tattoo, a drawing, a painting, a doodle, a sketch, "
_FORMS += "a rendition, art, itap, a photo"

_BOTH = (
    *(f"a {look} photo of ARTICLE {{}}." for look in _LOOKS.split(", ")),
    *(f"a photo of ARTICLE {thing} {{}}." for thing in _THINGS.split(", ")),
    *(f"ARTICLE {made_of} {{}}." for made_of in _MADE_OF.split(", ")),
    *(f"{form} of ARTICLE {{}}." for form in _FORMS.split(", ")),
    "ARTICLE {} in a video game.",
)

CLIP_PROMPTS: tuple[str, ...] = (
    *(text.replace("ARTICLE", article) for text in _BOTH for article in ("a", "the")),
    "a photo of many {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "itap of my {}.",
)
"""All 80 templates, with `{}` for the class name. "itap" is Reddit's abbreviation of "I took a
picture"."""

PROMPTS: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    # The seven templates to which CLIP's authors attribute most of the gain of their 80.
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
"""Named prompt sets: `photo` for photographs, `clip` for all 80 templates of CLIP, `drawing` for
icons and emoji, `plain` for the bare label."""


def prompts_named(name: str) -> tuple[str, ...]:
    """Return the templates of a named prompt set, or `name` itself if it contains `{}`."""
    if "{}" in name:
        return (name,)
    if name not in PROMPTS:
        raise ConfigError(
            f"{name!r} is not a prompt set; choose one of {', '.join(PROMPTS)}, or a template with "
            "{} where the label goes"
        )
    return PROMPTS[name]


def templates_named(name: str) -> Templates:
    """Return the result of `prompts_named`, or the prompts of a YAML or JSON file.

    A file contains a list of templates, or an object that maps each class to a list of prompts. The
    second is the format in which class descriptions by language models are published.
    """
    path = Path(name)
    if path.suffix not in (".json", ".yaml", ".yml"):
        return prompts_named(name)
    import yaml

    try:
        # JSON is YAML, too.
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the prompts {name} cannot be read: {error}") from error
    lists = content.values() if isinstance(content, dict) else [content]
    if not all(isinstance(it, list) and all(isinstance(one, str) for one in it) for it in lists):
        raise ConfigError(
            f"the prompts {name} must be a list of sentences, or such a list for each class, "
            f"got {content!r:.60}"
        )
    return content


def sentences_of(labels: Sequence[str], templates: Templates) -> list[list[str]]:
    """Return the prompts of each label."""
    if not labels:
        raise ConfigError("there is no label; at least one is needed, such as 'cat'")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ConfigError(f"the label {twice!r} is given twice; labels must differ")
    if not isinstance(templates, Mapping):
        return [fill(as_texts(templates), label) for label in labels]
    if without := [label for label in labels if not templates.get(label)]:
        raise ConfigError(
            f"{len(without)} of {len(labels)} classes have no prompt, such as {without[0]!r}; give "
            "each at least one sentence"
        )
    return [[text.replace("{}", label) for text in as_texts(templates[label])] for label in labels]


def class_means(
    vectors: Float[ndarray, "M E"], groups: Sequence[Sequence[str]]
) -> Float[ndarray, "K E"]:
    """Compute the mean of the vectors of each class's prompts, of length 1."""
    ends = np.cumsum([len(group) for group in groups])[:-1]
    means = np.stack([part.mean(axis=0) for part in np.split(vectors, ends)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def log_mean_likelihoods(
    scores: Float32[ndarray, "N M"], groups: Sequence[Sequence[str]]
) -> Float32[ndarray, "N K"]:
    """Compute the logarithm of the mean likelihood of each class's prompts, in nats."""
    counts = [len(group) for group in groups]
    parts = np.split(scores, np.cumsum(counts)[:-1], axis=1)
    with np.errstate(invalid="ignore"):  # of the NaN of skipped images
        totals = np.stack([np.logaddexp.reduce(part, axis=1) for part in parts], axis=1)
    return totals - np.log(np.array(counts, np.float32))


def fill(templates: Sequence[str], label: str) -> list[str]:
    """Insert a label into each template."""
    for template in templates:
        if "{}" not in template:
            raise ConfigError(f"the template {template!r} has no {{}} for the label")
    if not templates:
        raise ConfigError("at least one template is needed, such as '{}'")
    return [template.replace("{}", label) for template in templates]
