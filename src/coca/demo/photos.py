"""The photos of the demo: photos of Flickr under CC BY 2.0, without captions, with their credits.

They are one zip in the package, which `recipes/data/demo_photos.py` writes. Its `photos.jsonl` has
a line for each photo.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from zipfile import ZipFile

from coca.core.files.atomic import atomic_folder

ARCHIVE, TABLE, CREDITS = "photos.zip", "photos.jsonl", "CREDITS.md"
"""Name of the zip in this package, of the table in the zip, and of the credits next to photos."""
LICENCE = "https://creativecommons.org/licenses/by/2.0/"
CHANGES = "cropped, resized and compressed"
"""What was changed in all photos."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One photo and its credit."""

    name: str
    """File name."""
    author: str
    author_url: str
    page: str
    """Page of the photo on Flickr."""
    shows: str
    """Name of its class. No search reads it."""


def read_table() -> list[Photo]:
    """Read the credits of all photos."""
    with _archive() as archive:
        return [Photo(**json.loads(line)) for line in archive.read(TABLE).splitlines()]


def write_photos(folder: Path) -> list[tuple[Path, Photo]]:
    """Write the photos to a folder, each with a sidecar of its credit, and a page of all credits.

    Nothing is written if the folder has these photos.
    """
    photos = read_table()
    page = credits_page(photos)
    written = folder / CREDITS
    if not (written.exists() and written.read_text(encoding="utf-8") == page):
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_folder(folder) as unfinished, _archive() as archive:
            for photo in photos:
                path = unfinished / photo.name
                path.write_bytes(archive.read(photo.name))
                credit = {
                    "author": photo.author,
                    "author_url": photo.author_url,
                    "page": photo.page,
                    "license": LICENCE,
                    "changes": CHANGES,
                }
                path.with_suffix(".json").write_text(json.dumps(credit), encoding="utf-8")
            (unfinished / CREDITS).write_text(page, encoding="utf-8")
    return [(folder / photo.name, photo) for photo in photos]


def credits_page(photos: Sequence[Photo]) -> str:
    """Format the credits as Markdown."""
    lines = [
        f"- [{photo.name}]({photo.page}) by [{_escaped(photo.author)}]({photo.author_url})"
        for photo in photos
    ]
    return (
        "# Credits of the demo's photos\n\n"
        f"{len(photos)} photos of Flickr, each licensed under [CC BY 2.0]({LICENCE}). All were "
        f"{CHANGES}.\nThe first link is the page of the photo, the second that of its author.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _archive() -> ZipFile:
    return ZipFile(str(resources.files("coca.demo") / ARCHIVE))


def _escaped(text: str) -> str:
    return "".join("\\" + letter if letter in r"\`*_[]<>|#" else letter for letter in text)
