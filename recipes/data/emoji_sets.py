"""Write the emoji of four vendors as WebDataset shards, split for training and tests.

    python recipes/data/emoji_sets.py runs/emoji-data --size-px 80

Drawings come from five npm packages, labels and tags from
emojibase. A concept is an emoji independent of the vendor, without the variants for skin tones.
OpenMoji is used for tests only, and some concepts are held out from all vendors. Tests therefore
cover unseen styles and unseen concepts.
"""

import argparse
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.core.files.atomic import atomic_folder, write_atomic
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from emoji_drawings import rendered
from npm import npm_packages


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
    def pinned(self) -> str:
        """Package and version, as npm installs them."""
        return f"{self.package}@{self.version}"

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

SPLITS = ("train", "test", "heldout")
UNSEEN_VENDOR = "openmoji"
HELD_OUT_CONCEPTS = 200
HELD_OUT_SEED = 0

_SYMBOLS = "symbols"
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
            f"install {one.pinned}",
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


@dataclass(frozen=True)
class PackedSets:
    """Summary of the written shards."""

    folder: Path
    samples: Mapping[str, int]
    """Number of samples per part, such as `"train/noto"`."""
    concepts: int
    """Number of concepts drawn by at least one set."""
    shared: int
    """Number of shared concepts, on which scores are reported; see `pack_sets`."""
    held_out: int


def pack_sets(
    out: str | Path,
    packages: str | Path,
    *,
    size_px: int = 128,
    held_out: int = HELD_OUT_CONCEPTS,
) -> PackedSets:
    """Write all drawings as shards, split so that no test data leak into training.

        train/SET-PART-*.tar          three vendors in four sets, without the held-out concepts
        test/openmoji-PART-*.tar      the unseen vendor's drawings of the concepts in training
        heldout/SET-PART-*.tar        the held-out concepts as each set draws them
        sets.json                     packages, versions, licences, and the held-out concepts

    PART is `shared-plain`, `shared-flags`, `other-plain` or `other-flags`. A concept is shared if
    all four vendors draw it as vectors, it does not come in skin tones, and it is not a symbol. The
    held-out concepts are sampled from those that all five sets draw, without flags, stratified by
    group.

    Args:
        out: Output folder; an existing one is replaced.
        packages: A `node_modules` folder with the packages of `SETS` and `WORDS`.
        size_px: Side of each drawing, pixels; the background is transparent.
        held_out: Number of held-out concepts.

    Raises:
        ConfigError: The sets share fewer than `held_out` concepts.
        DataError: A package is missing.
        MissingExtraError: The extra `drawings` is not installed.
    """
    out, packages = Path(out), Path(packages)
    require("resvg_py", extra="drawings")
    concepts = read_concepts(packages)
    drawings = {it.name: read_drawings(it, packages) for it in SETS}
    everywhere = _common(concepts, list(drawings.values()))
    in_vectors = _common(concepts, [drawings[it.name] for it in SETS if it.vectors])
    plan = _Plan(
        shared=frozenset(code for code in in_vectors if _plain(concepts[code])),
        held_out=choose_held_out((concepts[code] for code in everywhere), count=held_out),
    )
    samples: dict[str, int] = {}
    with atomic_folder(out) as unfinished:
        for one in SETS:
            drawn = {
                concept: drawings[one.name][code]
                for code, concept in concepts.items()
                if code in drawings[one.name]
            }
            for (split, part), members in _placed(one, drawn, plan, size_px).items():
                write_shards(members, unfinished / split, f"{one.name}-{part}")
                key = f"{split}/{one.name}"
                samples[key] = samples.get(key, 0) + len(members)
        write_terms(
            unfinished / "sets.json",
            [terms_of(one, packages, samples) for one in (*SETS, WORDS)],
            held_out=sorted(plan.held_out),
        )
    known = {code for drawn in drawings.values() for code in drawn}
    return PackedSets(
        folder=out,
        samples=samples,
        concepts=len(concepts.keys() & known),
        shared=len(plan.shared),
        held_out=len(plan.held_out),
    )


@dataclass(frozen=True)
class _Plan:
    """Codes of the shared and of the held-out concepts."""

    shared: frozenset[str]
    held_out: frozenset[str]

    def part(self, one: EmojiSet, concept: Concept) -> tuple[str, str]:
        """Return the split and part of a drawing."""
        kind = "shared" if concept.code in self.shared else "other"
        seen = "test" if one.vendor == UNSEEN_VENDOR else "train"
        split = "heldout" if concept.code in self.held_out else seen
        return split, f"{kind}-{'flags' if concept.flag else 'plain'}"


def _placed(
    one: EmojiSet, drawn: Mapping[Concept, Draw], plan: _Plan, size_px: int
) -> dict[tuple[str, str], list[Sample]]:
    """Group the samples of a set by split and part."""
    parts: dict[tuple[str, str], list[Sample]] = {}
    for concept, draw in drawn.items():
        sample = _sample(one, concept, draw(size_px), shared=concept.code in plan.shared)
        parts.setdefault(plan.part(one, concept), []).append(sample)
    return parts


def _common(concepts: Mapping[str, Concept], drawings: Sequence[Mapping[str, Draw]]) -> set[str]:
    return {code for code in concepts if all(code in drawn for drawn in drawings)}


def _plain(concept: Concept) -> bool:
    return not concept.toned and concept.group != _SYMBOLS


def choose_held_out(
    concepts: Iterable[Concept], *, count: int, seed: int = HELD_OUT_SEED
) -> frozenset[str]:
    """Choose the codes of `count` concepts, stratified by group, without flags.

    Within a group they are sorted by a hash, so that a later package version with another concept
    changes few choices.

    Raises:
        ConfigError: There are fewer than `count` concepts.
    """
    groups: dict[str, list[str]] = {}
    for concept in concepts:
        if not concept.flag:
            groups.setdefault(concept.group, []).append(concept.code)
    total = sum(map(len, groups.values()))
    if count > total:
        raise ConfigError(f"{count} concepts cannot be held out of {total}")
    share = {group: count * len(codes) / max(1, total) for group, codes in sorted(groups.items())}
    taken = {group: int(exact) for group, exact in share.items()}
    # Largest remainder method.
    for group in sorted(share, key=lambda it: taken[it] - share[it])[: count - sum(taken.values())]:
        taken[group] += 1
    return frozenset(
        code
        for group, codes in groups.items()
        for code in sorted(codes, key=lambda it: hashlib.sha256(f"{seed}/{it}".encode()).digest())[
            : taken[group]
        ]
    )


def _sample(one: EmojiSet, concept: Concept, image: bytes, *, shared: bool) -> Sample:
    return Sample(
        key=f"{one.name}/{concept.code}",
        image=image,
        captions=concept.captions(),
        labels=(concept.label,),
        metadata={
            "vendor": one.vendor,
            "set": one.name,
            "name": concept.label,
            "keywords": list(concept.keywords),
            "group": concept.group,
            "subgroup": concept.subgroup,
            "codepoints": concept.code,
            "flag": concept.flag,
            "shared": shared,
        },
    )


def write_shards(samples: Iterable[Sample], folder: Path, name: str) -> int:
    """Write samples as shards `NAME-*.tar`; return their number."""
    count = 0
    with ShardWriter(folder, name=name) as writer:
        for sample in samples:
            writer.write(sample)
            count += 1
    return count


def terms_of(one: EmojiSet, packages: Path, samples: Mapping[str, int]) -> dict[str, Any]:
    """Return package, licence and author of a set, and its number of samples of each split."""
    return {
        **{name: getattr(one, name) for name in ("name", "vendor", "package")},
        # The installed version, which may differ from the pinned one.
        "version": read_json(package_folder(one, packages) / "package.json")["version"],
        **{name: getattr(one, name) for name in ("licence", "author", "source")},
        "pictures": {
            split: samples[f"{split}/{one.name}"]
            for split in SPLITS
            if f"{split}/{one.name}" in samples
        },
    }


def write_terms(path: Path, sets: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Write the terms of all sets next to the shards."""
    text = json.dumps({"sets": sets, **more}, indent=2, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())


def parser_of(description: str, size_px: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all tools share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--size-px", type=int, default=size_px, help="side of the images, pixels")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the sets as the arguments of the command line say."""
    parser = parser_of(__doc__, size_px=128)
    parser.add_argument("--packages", type=Path, help="node_modules folder; default: npm downloads")
    parser.add_argument(
        "--held-out", type=int, default=HELD_OUT_CONCEPTS, help="concepts used for tests only"
    )
    given = parser.parse_args(arguments)
    with npm_packages([it.pinned for it in (*SETS, WORDS)], given.packages) as folder:
        packed = pack_sets(given.out, folder, size_px=given.size_px, held_out=given.held_out)
    for part, count in sorted(packed.samples.items()):
        print(f"{part + ':':<22}{count:>6,} images")
    print(
        f"{packed.concepts:,} concepts, of which {packed.shared:,} are shared by all and "
        f"{packed.held_out} held out, are in {packed.folder}"
    )


if __name__ == "__main__":
    main()
