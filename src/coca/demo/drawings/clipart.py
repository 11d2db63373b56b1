"""Clip art of the Open Clip Art Library, with captions from the metadata of each file.

Debian's package `openclipart-svg` installs it. Files name their licence; only those in the public
domain are read.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image, ImageOps

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.demo.emoji.concepts import rendered

CLIPART_FOLDER = Path("/usr/share/openclipart/svg")
"""Where Debian installs the package."""

SUBJECTS = (
    *("animals", "buildings", "containers", "decorations", "education", "electronics", "food"),
    *("office", "people", "plants", "recreation", "science", "signs_and_symbols/weather"),
    *("signs_and_symbols/hazard", "signs_and_symbols/clocks", "signs_and_symbols/money"),
    *("tools", "transportation", "unsorted"),
)
"""Folders to read. Themes of desktops, shapes, flags and patterns are left out."""

MAX_KEYWORDS = 4
"""Keywords of a caption."""

MAX_ALIKE = 3
"""Drawings with the same captions, such as the cards of a deck, of which the first are read."""

_GENERIC = frozenset(
    word
    for line in (
        "clip art clipart image images svg png openclipart hash icon icons theme special",
        "unsorted symbol symbols mapsym sign stock action application magick public domain",
        "remix externalsource color colour black white line outline",
    )
    for word in line.split()
)
"""Keywords that do not describe a drawing."""

_REPEATED = 4
"""Files with one title from which on the title names a collection, and no single drawing."""


@dataclass(frozen=True)
class ClipArt:
    """A drawing with the words of its metadata."""

    path: Path
    title: str
    keywords: tuple[str, ...]


def clipart_samples(folder: Path, *, known_words: Set[str], size_px: int) -> Iterator[Sample]:
    """Yield the drawings in the public domain that have a usable title or keywords.

    Args:
        folder: The library's folder of SVG files.
        known_words: English words. A title with another word, such as a name, is not used.
        size_px: Longer side of each drawing in pixels; the background is transparent.

    Raises:
        DataError: The folder has no drawing.
    """
    found = read_clipart(folder)
    words = known_words | {word for it in found for key in it.keywords for word in key.split()}
    alike: Counter[tuple[str, ...]] = Counter()
    for one in found:
        captions = captions_of(one, words)
        alike[captions] += 1
        if not captions or alike[captions] > MAX_ALIKE:
            continue
        try:
            svg = one.path.read_text(encoding="utf-8", errors="replace")
            image = _square(rendered(svg, 2 * size_px), size_px)
        except ValueError:
            continue  # a size in percent, or a damaged file
        yield Sample(
            # WebDataset splits names at the first dot.
            key=f"openclipart/{one.path.relative_to(folder).as_posix().replace('.', '-')}",
            image=image,
            captions=captions,
            labels=captions[:1],
            metadata={
                "vendor": "openclipart",
                "set": "openclipart",
                "name": captions[0],
                "keywords": list(one.keywords[:MAX_KEYWORDS]),
            },
        )


def read_clipart(folder: Path) -> list[ClipArt]:
    """Read title and keywords of all drawings in the public domain, sorted by path.

    Raises:
        DataError: The folder has no drawing.
    """
    found = []
    for subject in SUBJECTS:
        for path in sorted((folder / subject).rglob("*.svg")):
            one = _read(path)
            if one is not None:
                found.append(one)
    if not found:
        raise DataError(
            f"{folder} has no clip art; install Debian's package openclipart-svg", reason="missing"
        )
    titles = Counter(one.title for one in found)
    return [
        ClipArt(one.path, one.title if titles[one.title] <= _REPEATED else "", one.keywords)
        for one in found
    ]


def captions_of(one: ClipArt, known_words: Set[str]) -> tuple[str, ...]:
    """Return the title, if all of its words are known, and keywords; empty without either."""
    words = [word for word in one.title.split() if word not in known_words]
    title = "" if words else one.title
    keywords = [key for key in one.keywords if key != title]
    first = title or (", ".join(keywords[:2]) if len(keywords) > 1 else "")
    if not first:
        return ()
    listed = ", ".join([title, *keywords[:MAX_KEYWORDS]] if title else keywords[:MAX_KEYWORDS])
    return tuple(dict.fromkeys([first, listed]))


def _square(png: bytes, size_px: int) -> bytes:
    """Crop a drawing to its visible part, and center it on a transparent square."""
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    drawing = ImageOps.contain(drawing, (size_px, size_px))
    canvas = Image.new("RGBA", (size_px, size_px))
    canvas.paste(drawing, ((size_px - drawing.width) // 2, (size_px - drawing.height) // 2))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return buffer.getvalue()


def _read(path: Path) -> ClipArt | None:
    try:
        work = ElementTree.parse(path).getroot().find(".//{*}Work")
    except (ElementTree.ParseError, OSError, ValueError):
        return None
    if work is None:
        return None
    licences = [value for it in work.findall("{*}license") for value in it.attrib.values()]
    if not any("publicdomain" in value.lower().replace("/", "") for value in licences):
        return None
    keywords = _keywords([it.text or "" for it in work.findall("{*}subject//{*}li")])
    return ClipArt(path, _plain(work.findtext("{*}title") or ""), keywords)


def _keywords(texts: Sequence[str]) -> tuple[str, ...]:
    plain = (_plain(text) for text in texts)
    return tuple(dict.fromkeys(text for text in plain if not _GENERIC.issuperset(text.split())))


def _plain(text: str) -> str:
    """Convert a title or keyword to lower-case words, without numbers and the artist."""
    text = re.sub(r"^clipart by .* - ", "", text.strip().lower()).replace("_", " ")
    words = re.findall(r"[^\W\d_]+(?:'[a-z]+)?", text)
    return " ".join(word for word in words if len(word) > 1 or word == "a")
