"""Files of folders that are skipped: their number by suffix, and a remedy for each kind."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from coca.core.annotations import SIDECAR_SUFFIXES, XMP_SUFFIX
from coca.core.files.formats import PHOTO_SUFFIXES, VIDEO_SUFFIXES
from coca.workflows.collections.image_sources import (
    STORE_SUFFIXES,
    TABLE_SUFFIXES,
    SourceUri,
    uris_of,
)

LINK = "links to folders"
"""Key of linked folders, next to the suffixes."""

_RAW = frozenset({".3fr", ".crw", ".dcr", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw"}) | {
    ".nrw",
    ".pef",
    ".raw",
    ".rwl",
    ".sr2",
    ".srf",
    ".srw",
    ".x3f",
}
"""Raw photos that are not read."""
_IMAGES = (
    frozenset({".ai", ".cdr", ".cin", ".dds", ".eps", ".exr", ".fit", ".fits", ".hdr"})
    | {".icns", ".ico", ".jp2", ".jpe", ".jfif", ".jxl", ".kra", ".pcx", ".pbm"}
    | {".pgm", ".pnm", ".ppm", ".psb", ".psd", ".qoi", ".svg", ".svgz", ".tga", ".xcf", ".xpm"}
)
_ARCHIVES = frozenset({".7z", ".bz2", ".gz", ".rar", ".tgz", ".xz", ".zst"})
_TABLES = TABLE_SUFFIXES - {".zip"}
_KINDS: Sequence[tuple[frozenset[str], str]] = (
    (_RAW, "raw photos: index JPEG copies of them"),
    (_IMAGES, "images of other formats: convert them to JPEG or PNG"),
    (frozenset({".tar"}), "tars below the top of the folder: pass them by name"),
    (frozenset({".zip"}), "zips: pass those with a table by name, and unpack the others"),
    (_ARCHIVES, "archives: unpack them"),
    (_TABLES, "tables: pass those that list images by name"),
    (frozenset({LINK}), "pass the linked folders by name"),
)
_MEDIA = PHOTO_SUFFIXES | VIDEO_SUFFIXES
_TAKEN = _MEDIA | frozenset(SIDECAR_SUFFIXES) | {XMP_SUFFIX, ".idx", *STORE_SUFFIXES}
_MOST_SUFFIXES = 6


def skipped_files(uris: Iterable[SourceUri]) -> dict[str, int]:
    """Count the skipped files of the folders among the URIs; suffix in lower case -> count.

    Sidecar files, hidden files, files of SQLite stores, and raw photos next to a photo of the same
    name are not counted. Images and videos whose package is not installed are reported where they
    are searched.
    """
    counts: Counter[str] = Counter()
    tops = {os.path.abspath(uri) for uri in uris_of(uris, "folder")}
    passed = {os.path.abspath(uri.uri) for uri in uris} - tops
    seen: set[str] = set()
    for top in sorted(tops):
        for here, folders, names in os.walk(top):
            if here in seen:
                folders.clear()
                continue
            seen.add(here)
            visible = [os.path.join(here, name) for name in folders if not name.startswith(".")]
            links = [path for path in visible if os.path.islink(path)]
            counts[LINK] += sum(os.path.realpath(path) not in tops for path in links)
            folders[:] = [os.path.basename(path) for path in visible if path not in links]
            parts = {name: os.path.splitext(name) for name in names}
            photos = {stem for stem, suffix in parts.values() if suffix.lower() in PHOTO_SUFFIXES}
            for name, (stem, suffix) in parts.items():
                suffix = suffix.lower()
                is_read = suffix in _TAKEN or (suffix == ".tar" and here in tops)
                is_read |= suffix in _RAW and stem in photos
                if not (name.startswith(".") or is_read or os.path.join(here, name) in passed):
                    counts[suffix] += 1
    return dict(sorted((+counts).items()))


def describe_skipped(counts: Mapping[str, int]) -> list[str]:
    """Describe skipped files in one sentence for each kind, with the remedy."""
    known = {suffix for suffixes, _ in _KINDS for suffix in suffixes}
    sentences = [
        f"skipped {listed}: {remedy}"
        for suffixes, remedy in _KINDS
        if (listed := _listed({name: counts[name] for name in counts.keys() & suffixes}))
    ]
    others = {name: count for name, count in counts.items() if name not in known}
    if others:
        sentences.append(f"skipped {_listed(others)}: no images, videos or tars")
    return sentences


def _listed(counts: Mapping[str, int]) -> str:
    """List counts by suffix, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in ordered]
    more = sum(count for _, count in ordered[_MOST_SUFFIXES:])
    return ", ".join([*named[:_MOST_SUFFIXES], *([f"{more:,} others"] if more else [])])
