"""Emoji packages of npm: five sets of drawings, and the labels and tags of emojibase.

A concept is an emoji independent of the vendor, without the variants for skin tones.
"""

import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from coca.core.errors import DataError
from coca.core.extras import npm_install
from coca.demo.emoji.concepts import rendered


@dataclass(frozen=True)
class EmojiSet:
    """A package of drawings and its terms."""

    name: str
    """Name in shards and keys."""
    vendor: str
    """Vendor; two sets of one vendor resemble each other."""
    package: str
    """Name of the npm package."""
    version: str
    licence: str
    """SPDX identifier."""
    author: str
    """Attribution required by the licence."""
    source: str
    """URL of the drawings."""

    @property
    def vectors(self) -> bool:
        """Whether the set is an Iconify file of SVGs; otherwise it is a folder of WebP images."""
        return self.package.startswith("@iconify-json/")


SETS = (
    EmojiSet(
        name="noto",
        vendor="noto",
        package="@iconify-json/noto",
        version="1.2.9",
        licence="Apache-2.0",
        author="Google Inc",
        source="https://github.com/googlefonts/noto-emoji",
    ),
    EmojiSet(
        name="twemoji",
        vendor="twemoji",
        package="@iconify-json/twemoji",
        version="1.2.5",
        licence="CC-BY-4.0",
        author="Twitter, Inc and other contributors",
        source="https://github.com/jdecked/twemoji",
    ),
    EmojiSet(
        name="fluent-flat",
        vendor="fluent",
        package="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        licence="MIT",
        author="Microsoft Corporation",
        source="https://github.com/microsoft/fluentui-emoji",
    ),
    EmojiSet(
        name="fluent-3d",
        vendor="fluent",
        package="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        licence="MIT",
        author="Microsoft Corporation, packed by LobeHub",
        source="https://github.com/lobehub/fluent-emoji",
    ),
    EmojiSet(
        name="openmoji",
        vendor="openmoji",
        package="@iconify-json/openmoji",
        version="1.2.29",
        licence="CC-BY-SA-4.0",
        author="OpenMoji, HfG Schwäbisch Gmünd",
        source="https://github.com/hfg-gmuend/openmoji",
    ),
)
"""Every set; none of EmojiOne, which stays unread for checks from outside."""

WORDS = EmojiSet(
    name="emojibase",
    vendor="emojibase",
    package="emojibase-data",
    version="17.0.0",
    licence="MIT",
    author="Miles Johnson",
    source="https://github.com/milesj/emojibase",
)
"""Labels, tags and groups."""

TAGGED_CAPTIONS = 4
"""Number of captions with tags per concept, in addition to the label alone."""

_STYLE = "fe0f"
_SKIN_TONES = frozenset(f"1f3f{digit}" for digit in "bcdef")
_COMPONENT, _FLAGS = "component", "flags"
# Iconify's view box, with its default values.
_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}

Draw: TypeAlias = Callable[[int], bytes]
"""Renders a drawing as a PNG with the given side in pixels."""


@dataclass(frozen=True)
class Concept:
    """One emoji with its label and tags."""

    code: str
    """Its code points in small hexadecimal, joined by hyphens, without the style selector."""
    label: str
    tags: tuple[str, ...]
    """Tags that are not words of the label."""
    group: str
    subgroup: str
    toned: bool
    """Whether it comes in several skin tones."""
    keywords: tuple[str, ...] = ()
    """All tags."""

    @property
    def flag(self) -> bool:
        """Whether it is a flag, whose name is not visible in the image."""
        return self.group == _FLAGS

    def captions(self) -> tuple[str, ...]:
        """Return the label, and the label with one to three random tags; deterministic."""
        chance = random.Random(self.code)
        tagged = []
        for _ in range(TAGGED_CAPTIONS):
            count = min(len(self.tags), chance.randint(1, 3))
            tagged.append(", ".join([self.label, *chance.sample(self.tags, count)]))
        return tuple(dict.fromkeys([self.label, *tagged]))


def install_packages(folder: Path) -> Path:
    """Install the packages by npm at pinned versions; return the `node_modules` folder.

    Raises:
        ConfigError: npm is not installed.
        StorageError: npm fails.
    """
    return npm_install(folder, [f"{it.package}@{it.version}" for it in (*SETS, WORDS)])


def read_concepts(packages: Path) -> dict[str, Concept]:
    """Read the concepts of emojibase by code, in its order, without components (tones, hair).

    Raises:
        DataError: The package is missing or not what it should be.
    """
    folder = package_folder(WORDS, packages)
    names = read_json(folder / "meta" / "groups.json")
    concepts = {}
    for entry in read_json(folder / "en" / "data.json"):
        # Single letters of flags belong to no group.
        group = names["groups"].get(str(entry.get("group")), _COMPONENT)
        if group == _COMPONENT:
            continue
        code = _plain_code(entry["hexcode"])
        label = _display_label(entry["label"])
        known = label.casefold().split()
        concepts[code] = Concept(
            code=code,
            label=label,
            tags=tuple(tag for tag in entry.get("tags", []) if tag.casefold() not in known),
            keywords=tuple(entry.get("tags", [])),
            group=group,
            subgroup=names["subgroups"][str(entry["subgroup"])],
            toned="skins" in entry,
        )
    return concepts


def _display_label(label: str) -> str:
    """Convert `flag: Peru` to `flag of Peru`, `kiss: woman, man` to `kiss, woman, man`."""
    return label.replace("flag: ", "flag of ").replace(": ", ", ")


def _plain_code(code: str) -> str:
    """Normalize a code by removing the style selector, in which sets differ."""
    return "-".join(part for part in code.lower().split("-") if part != _STYLE)


def read_drawings(one: EmojiSet, packages: Path) -> dict[str, Draw]:
    """Return the drawings of a set by code; each is rendered when called.

    Raises:
        DataError: The package is missing or not what it should be.
    """
    folder = package_folder(one, packages)
    if one.vectors:
        icons = read_json(folder / "icons.json")
        made = {
            _plain_code(code): icon_drawing(icons["icons"][name], icons)
            for code, name in read_json(folder / "chars.json").items()
            if name in icons["icons"]
        }
    else:
        made = {_plain_code(it.stem): _scaled(it) for it in sorted(folder.glob("assets/*.webp"))}
    return {code: draw for code, draw in made.items() if not _SKIN_TONES & set(code.split("-"))}


def icon_drawing(icon: Mapping[str, Any], whole: Mapping[str, Any]) -> Draw:
    """Build the SVG of an icon; the file's view box is the default of its icons."""
    box = [icon.get(name, whole.get(name, low)) for name, low in _BOX.items()]
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
    )

    return partial(rendered, svg)


def _scaled(path: Path) -> Draw:
    def draw(size_px: int) -> bytes:
        with Image.open(path) as image:
            small = image.convert("RGBA").resize((size_px, size_px), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, format="PNG")
        return buffer.getvalue()

    return draw


def package_folder(one: EmojiSet, packages: Path) -> Path:
    """Return the folder of a set's package in a `node_modules` folder.

    Raises:
        DataError: The package is not installed.
    """
    folder = packages / one.package
    if not (folder / "package.json").is_file():
        raise DataError(
            f"{packages} does not contain the npm package {one.package}; install it with npm "
            f"install {one.package}@{one.version}",
            reason="missing",
        )
    return folder


def read_json(path: Path) -> Any:
    """Parse a JSON file of a package.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}", reason="bad_package") from error
