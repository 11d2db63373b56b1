"""Colour icon sets of npm, with captions from their names.

Sets of emoji get label, tags and keywords of the emoji that a name matches. Icons of other sets get
the words of their name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coca.data.sample import Sample
from coca.demo.emoji.packages import (
    WORDS,
    Concept,
    EmojiSet,
    icon_drawing,
    package_folder,
    read_concepts,
    read_json,
)


@dataclass(frozen=True)
class IconSet(EmojiSet):
    """An Iconify package of drawings whose names are words."""

    is_emoji: bool = False
    """Whether names are those of emoji; icons that match none are left out."""
    categories: tuple[str, ...] = ()
    """Categories to read; all if there are none. Icons of user interfaces are left out."""


ICON_SETS = (
    IconSet(
        name="noto-v1",
        vendor="noto-v1",
        package="@iconify-json/noto-v1",
        version="1.2.5",
        licence="Apache-2.0",
        author="Google Inc",
        source="https://github.com/googlefonts/noto-emoji",
        is_emoji=True,
    ),
    IconSet(
        name="fxemoji",
        vendor="mozilla",
        package="@iconify-json/fxemoji",
        version="1.2.2",
        licence="Apache-2.0",
        author="Mozilla",
        source="https://github.com/mozilla/fxemoji",
        is_emoji=True,
    ),
    IconSet(
        name="streamline-emojis",
        vendor="streamline",
        package="@iconify-json/streamline-emojis",
        version="1.2.4",
        licence="CC-BY-4.0",
        author="Streamline",
        source="https://github.com/webalys-hq/streamline-vectors",
        is_emoji=True,
    ),
    IconSet(
        name="flat-color-icons",
        vendor="icons8",
        package="@iconify-json/flat-color-icons",
        version="1.2.3",
        licence="MIT",
        author="Icons8",
        source="https://github.com/icons8/flat-Color-icons",
    ),
    IconSet(
        name="icon-park",
        vendor="bytedance",
        package="@iconify-json/icon-park",
        version="1.2.4",
        licence="Apache-2.0",
        author="ByteDance",
        source="https://github.com/bytedance/IconPark",
        categories=(
            *("Animals", "Baby", "Build", "Clothes", "Emoji", "Energy", "Foods", "Hardware"),
            *("Health", "Industry", "Life", "Makeups", "Measurement", "Music", "Safe", "Sports"),
            *("Time", "Travel", "Weather"),
        ),
    ),
    IconSet(
        name="streamline-ultimate",
        vendor="streamline",
        package="@iconify-json/streamline-ultimate-color",
        version="1.2.2",
        licence="CC-BY-4.0",
        author="Streamline",
        source="https://github.com/webalys-hq/streamline-vectors",
        categories=(
            *("EntertainmentEventsHobbies", "FoodDrinks", "HealthBeauty", "MapsNavigation"),
            *("MusicAudio", "Science", "ShippingDelivery", "Sports", "Transportation"),
            *("VideoMoviesTv", "Wayfinding", "Weather"),
        ),
    ),
    IconSet(
        name="streamline-freehand",
        vendor="streamline",
        package="@iconify-json/streamline-freehand-color",
        version="1.2.2",
        licence="CC-BY-4.0",
        author="Streamline",
        source="https://github.com/webalys-hq/streamline-vectors",
        categories=("ImagesPhotography", "MusicVideoEntertainment", "Wayfinding"),
    ),
)
"""Sets in addition to those of `coca.demo.emoji.packages.SETS`. None is of EmojiOne or OpenMoji."""

SHORTCODES = ("cldr", "emojibase", "emojibase-legacy", "github", "iamcal")
"""Tables of emojibase with further names of emoji, by precedence."""

_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def icon_samples(one: IconSet, packages: Path, *, size_px: int) -> Iterator[Sample]:
    """Yield the drawings of a set with captions and label, rendered as PNG.

    Args:
        one: The set.
        packages: A `node_modules` folder with the set and emojibase.
        size_px: Side of each drawing in pixels; the background is transparent.

    Raises:
        DataError: A package is missing or not what it should be.
    """
    folder = package_folder(one, packages)
    icons = read_json(folder / "icons.json")
    matched = match_concepts(packages) if one.is_emoji else {}
    for name in _names(one, folder, icons):
        concept = matched.get(squeezed(_without_number(name)))
        if one.is_emoji and concept is None:
            continue
        label = spoken(name) if concept is None else concept.label
        if label:
            yield Sample(
                key=f"{one.name}/{name}",
                image=icon_drawing(icons["icons"][name], icons)(size_px),
                captions=(label,) if concept is None else concept.captions(),
                labels=(label,),
                metadata={
                    "vendor": one.vendor,
                    "set": one.name,
                    "name": label,
                    **({} if concept is None else {"keywords": list(concept.keywords)}),
                },
            )


def match_concepts(packages: Path) -> dict[str, Concept]:
    """Map the squeezed labels and short names of emoji to their concepts."""
    concepts = read_concepts(packages)
    found: dict[str, Concept] = {}
    for concept in concepts.values():
        found.setdefault(squeezed(concept.label), concept)
    for table in SHORTCODES:
        path = package_folder(WORDS, packages) / "en" / "shortcodes" / f"{table}.json"
        for code, names in read_json(path).items():
            plain = "-".join(part for part in code.lower().split("-") if part != "fe0f")
            for name in [names] if isinstance(names, str) else names:
                if plain in concepts:
                    found.setdefault(squeezed(name), concepts[plain])
    return found


def squeezed(name: str) -> str:
    """Reduce a name to its lower-case letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def spoken(name: str) -> str:
    """Convert the name of an icon to words, without the number of a variant."""
    words = _without_number(name).split("-")
    while len(words) > 1 and words[-1] in _NUMBERS:
        words.pop()
    return " ".join(word for word in words if word).strip()


def _names(one: IconSet, folder: Path, icons: Mapping[str, Any]) -> list[str]:
    names = [name for name in icons["icons"] if "skin-tone" not in name]
    if not one.categories:
        return names
    categories = read_json(folder / "metadata.json")["categories"]
    kept = {name for category in one.categories for name in categories[category]}
    return [name for name in names if name in kept]


def _without_number(name: str) -> str:
    return re.sub(r"-\d+$", "", name)
