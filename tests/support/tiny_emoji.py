"""The emoji packages of npm, small enough for a test: a few concepts, drawn as plain shapes."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from emoji_sets import SETS, WORDS

GROUPS = {"0": "smileys-emotion", "2": "component", "3": "animals-nature", "8": "symbols"}
FLAGS = {"9": "flags"}

CONCEPTS: tuple[dict[str, Any], ...] = (
    *({"label": f"animal {n}", "hexcode": f"1F40{n}", "group": 3} for n in range(8)),
    *({"label": f"face {n}", "hexcode": f"1F60{n}", "group": 0} for n in range(4)),
    {"label": "red heart", "hexcode": "2764", "group": 0, "tags": ["Heart", "love", "emotion"]},
    {"label": "kiss: woman, man", "hexcode": "1F48F", "group": 0, "skins": [{}]},
    {"label": "plus", "hexcode": "2795", "group": 8},
    {"label": "flag: Peru", "hexcode": "1F1F5-1F1EA", "group": 9},
    {"label": "pirate flag", "hexcode": "1F3F4-200D-2620-FE0F", "group": 9},
    {"label": "light skin tone", "hexcode": "1F3FB", "group": 2},
    {"label": "regional indicator A", "hexcode": "1F1E6"},
)
"""12 plain concepts, a heart, one with skin tones, one symbol, two flags; no others count."""

MISSING = {"noto": {"1f1f5-1f1ea"}, "fluent-3d": {"1f400"}}
"""What a set does not draw: Peru's flag, and the first animal."""


def write_packages(root: Path) -> Path:
    """A `node_modules` folder."""
    for one in (*SETS, WORDS):
        write_json(root / one.package / "package.json", {"version": one.version})
    words = root / WORDS.package
    write_json(words / "en" / "data.json", [{"subgroup": 5, **it} for it in CONCEPTS])
    groups = {"groups": {**GROUPS, **FLAGS}, "subgroups": {"5": "some-of-them"}}
    write_json(words / "meta" / "groups.json", groups)
    for number, one in enumerate(SETS):
        codes = [it["hexcode"].lower().replace("-fe0f", "") for it in CONCEPTS]
        drawn = [code for code in codes if code not in MISSING.get(one.name, ())]
        if one.vectors:
            _write_icons(root / one.package, [*drawn, "1f48f-1f3fb"], number)
        else:
            _write_images(root / one.package / "assets", drawn)
    return root


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_icons(folder: Path, codes: list[str], number: int) -> None:
    icons = {f"icon-{code}": {"body": _circle(code, number)} for code in codes}
    chars = {code: f"icon-{code}" for code in codes}
    # An alias is in no file of icons.
    write_json(folder / "chars.json", {**chars, "1faf8": "an-alias"})
    write_json(folder / "icons.json", {"icons": icons, "width": 32, "height": 32})


def _circle(code: str, number: int) -> str:
    return f'<circle cx="16" cy="16" r="{8 + number}" fill="#{hash_of(code):06x}"/>'


def hash_of(code: str) -> int:
    """A colour for each code, the same in each run."""
    return sum(ord(letter) * 7919**position for position, letter in enumerate(code)) % 0xFFFFFF


def _write_images(folder: Path, codes: list[str]) -> None:
    folder.mkdir(parents=True)
    for code in codes:
        stream = io.BytesIO()
        colour = hash_of(code)
        red, green, blue = colour >> 16, colour >> 8 & 255, colour & 255
        image = Image.new("RGBA", (40, 40), (red, green, blue, 0))
        image.paste((red, green, blue, 255), (10, 10, 30, 30))
        image.save(stream, "WEBP", lossless=True)
        # Here the style selector is part of the name.
        name = code + "-fe0f" if code == "2764" else code
        (folder / f"{name}.webp").write_bytes(stream.getvalue())
