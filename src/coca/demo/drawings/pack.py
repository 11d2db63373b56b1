"""Drawings of icon sets and clip art as WebDataset shards."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from coca.core.extras import npm_install, require
from coca.core.files.atomic import atomic_folder, write_atomic
from coca.core.progress import ProgressMaker, silent
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.demo.drawings.clipart import clipart_samples
from coca.demo.drawings.icons import ICON_SETS, icon_samples
from coca.demo.emoji.packages import WORDS, package_folder, read_concepts, read_json

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


def install_drawings(folder: Path) -> Path:
    """Install the icon sets and emojibase by npm; return the `node_modules` folder.

    Raises:
        ConfigError: npm is not installed.
        StorageError: npm fails.
    """
    return npm_install(folder, [f"{it.package}@{it.version}" for it in (*ICON_SETS, WORDS)])


def pack_drawings(
    out: str | Path,
    packages: str | Path,
    *,
    clipart: str | Path | None = None,
    size_px: int = 224,
    progress: ProgressMaker = silent,
) -> PackedDrawings:
    """Write the drawings of each set as shards `SET-*.tar`, and their terms as `sets.json`.

    Args:
        out: Output folder; an existing one is replaced.
        packages: A `node_modules` folder with the packages of `ICON_SETS` and `WORDS`.
        clipart: SVG folder of the Open Clip Art Library; None: no clip art.
        size_px: Side of each drawing in pixels; the background is transparent.
        progress: Optional progress callback.

    Raises:
        DataError: A package or the clip art is missing.
        MissingExtraError: The extra `demo` is not installed.
    """
    out, packages = Path(out), Path(packages)
    require("resvg_py", extra="demo")
    drawings = {one.name: icon_samples(one, packages, size_px=size_px) for one in ICON_SETS}
    if clipart is not None:
        known = _words_of_emoji(packages)
        drawings["openclipart"] = clipart_samples(Path(clipart), known_words=known, size_px=size_px)
    samples = {}
    with atomic_folder(out) as unfinished:
        for name, of_set in drawings.items():
            samples[name] = _write(of_set, unfinished, name, progress)
        terms = [
            {
                **{name: getattr(one, name) for name in ("name", "vendor", "package")},
                "version": read_json(package_folder(one, packages) / "package.json")["version"],
                "licence": one.licence,
                "author": one.author,
                "source": one.source,
            }
            for one in (*ICON_SETS, WORDS)
        ]
        content = [*terms, *([CLIPART_TERMS] if clipart is not None else [])]
        for entry in content:
            entry["pictures"] = {"train": samples.get(entry["name"], 0)}
        text = json.dumps({"sets": content}, indent=2, ensure_ascii=False)
        write_atomic(unfinished / "sets.json", (text + "\n").encode())
    return PackedDrawings(out, samples)


def _write(samples: Iterator[Sample], folder: Path, name: str, progress: ProgressMaker) -> int:
    count = 0
    with progress(f"drawing {name}", None) as bar, ShardWriter(folder, name=name) as writer:
        for sample in samples:
            writer.write(sample)
            count += 1
            bar.advance()
    return count


def _words_of_emoji(packages: Path) -> frozenset[str]:
    """Return the words of all labels and tags of emojibase."""
    texts = [text for concept in read_concepts(packages).values() for text in concept.captions()]
    return frozenset(word.strip(",") for text in texts for word in text.lower().split())
