"""Write colour icons and clip art with their names as WebDataset shards.

    python recipes/data/drawings.py runs/drawings --clipart /usr/share/openclipart/svg

This is training data of `everyday`, in addition to `emoji_sets.py`. Icons come from npm packages.
Sets of emoji get label, tags and keywords of the emoji that a name matches; icons of other sets get
the words of their name. Clip art comes from the Open Clip Art Library, Debian's package
`openclipart-svg`, with captions from the metadata of each file; only files that state the public
domain are read.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image, ImageOps

from coca.core.errors import DataError
from coca.core.extras import require
from coca.core.files.atomic import atomic_folder
from coca.data.sample import Sample
from emoji_drawings import rendered
from emoji_sets import (
    WORDS,
    Concept,
    EmojiSet,
    icon_drawing,
    package_folder,
    parser_of,
    read_concepts,
    read_json,
    terms_of,
    write_shards,
    write_terms,
)
from npm import npm_packages


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
"""Sets in addition to those of `emoji_sets.SETS`. None is of EmojiOne or OpenMoji."""

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


CLIPART_TERMS = {
    "name": "openclipart",
    "vendor": "openclipart",
    "package": "openclipart-svg (Debian)",
    "licence": "public domain",
    "author": "artists of the Open Clip Art Library",
    "source": "https://openclipart.org",
}


@dataclass(frozen=True)
class PackedDrawings:
    """Summary of the written shards."""

    folder: Path
    samples: Mapping[str, int]
    """Number of drawings of each set."""


def pack_drawings(
    out: str | Path,
    packages: str | Path,
    *,
    clipart: str | Path | None = None,
    size_px: int = 224,
) -> PackedDrawings:
    """Write the drawings of each set as shards `SET-*.tar`, and their terms as `sets.json`.

    Args:
        out: Output folder; an existing one is replaced.
        packages: A `node_modules` folder with the packages of `ICON_SETS` and `WORDS`.
        clipart: SVG folder of the Open Clip Art Library; None: no clip art.
        size_px: Side of each drawing in pixels; the background is transparent.

    Raises:
        DataError: A package or the clip art is missing.
        MissingExtraError: The extra `drawings` is not installed.
    """
    out, packages = Path(out), Path(packages)
    require("resvg_py", extra="drawings")
    drawings = {one.name: icon_samples(one, packages, size_px=size_px) for one in ICON_SETS}
    if clipart is not None:
        known = _words_of_emoji(packages)
        drawings["openclipart"] = clipart_samples(Path(clipart), known_words=known, size_px=size_px)
    with atomic_folder(out) as unfinished:
        samples = {name: write_shards(it, unfinished, name) for name, it in drawings.items()}
        counts = {f"train/{name}": count for name, count in samples.items()}
        terms = [terms_of(one, packages, counts) for one in (*ICON_SETS, WORDS)]
        if clipart is not None:
            terms.append({**CLIPART_TERMS, "pictures": {"train": samples["openclipart"]}})
        write_terms(unfinished / "sets.json", terms)
    return PackedDrawings(out, samples)


def _words_of_emoji(packages: Path) -> frozenset[str]:
    """Return the words of all labels and tags of emojibase."""
    texts = [text for concept in read_concepts(packages).values() for text in concept.captions()]
    return frozenset(word.strip(",") for text in texts for word in text.lower().split())


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the drawings as the arguments of the command line say."""
    parser = parser_of(__doc__, size_px=224)
    parser.add_argument("--packages", type=Path, help="node_modules folder; default: npm downloads")
    parser.add_argument("--clipart", type=Path, help="SVG folder of the Open Clip Art Library")
    given = parser.parse_args(arguments)
    with npm_packages([it.pinned for it in (*ICON_SETS, WORDS)], given.packages) as folder:
        packed = pack_drawings(given.out, folder, clipart=given.clipart, size_px=given.size_px)
    for name, count in packed.samples.items():
        print(f"{name + ':':<22}{count:>6,} images")
    print(f"{sum(packed.samples.values()):,} images are in {packed.folder}")


if __name__ == "__main__":
    main()
