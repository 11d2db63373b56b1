"""Photos of the demo: those in the package scikit-image, all in the public domain or under CC0."""

import json
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from coca.core.extras import require
from coca.core.files.atomic import atomic_folder

PHOTOS: Mapping[str, str] = {
    "astronaut.png": "an astronaut in front of a flag",
    "chelsea.png": "a cat",
    "coffee.png": "a cup of coffee with a spoon",
    "coins.png": "rows of old coins",
    "motorcycle_left.png": "a motorcycle in a garage",
    "rocket.jpg": "a rocket on its launch pad",
}
"""File names with what the photos show."""

IS_PHOTO = 'metadata["kind"] == "photo"'
"""Milvus filter expression of the photos among the demo's images."""


def write_photos(folder: Path) -> list[tuple[Path, str]]:
    """Write the photos to a folder, each with a sidecar of metadata and without a caption.

    Returns:
        Paths, and what the photos show.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    home = Path(str(resources.files(require("skimage", extra="demo")))) / "data"
    if not folder.exists():
        with atomic_folder(folder) as unfinished:
            for name in PHOTOS:
                path = Path(shutil.copyfile(home / name, unfinished / name))
                path.with_suffix(".json").write_text(json.dumps({"kind": "photo"}))
    return [(folder / name, shown) for name, shown in PHOTOS.items()]
