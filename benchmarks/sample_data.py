"""Images with captions for benchmarks: drawings that pip installs, or the user's own shards.

The drawings are those of the extra `drawings`: Twemoji to train on, OpenMoji to score on. They are
written once, below `runs/bench/data`. `located` resolves the default of an option to them. The
module imports no torch by itself, since some benchmarks measure memory without it.
"""

import glob
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from PIL import Image
from side_by_side import QUICK_RESULTS, Unavailable

from coca.core.errors import MissingExtraError
from coca.core.files.atomic import atomic_folder, write_atomic

TRAIN, VAL = "drawings:train", "drawings:val"
"""Defaults of options: 1,900 drawings of Twemoji; 900 of OpenMoji with at least two names each."""
SCORED = "drawings:scored"
"""Default of options: all drawings of OpenMoji."""
FOLDER = QUICK_RESULTS / "data"
RECIPES = Path(__file__).parents[1] / "recipes" / "data"
VENDORS = {TRAIN: "twemoji", VAL: "openmoji", SCORED: "openmoji"}
SIDE_PX = 144
TILE, COLUMNS, ROWS = (128, 120), 5, 4
HELP = "shards of captioned images (*.tar); default: drawings of the extra `drawings`"


def located(pattern: str) -> str:
    """Return the pattern of files of an option, and write the drawings if they are its default.

    Raises:
        Unavailable: No file matches, or the packages of the drawings are not installed.
    """
    if pattern not in VENDORS:
        if not glob.glob(pattern):
            raise Unavailable(
                f"no file matches {pattern}; pass WebDataset shards of captioned images, or leave "
                "the option out to use drawings of the extra `drawings`"
            )
        return pattern
    folder = FOLDER / pattern.replace(":", "-")
    if not folder.is_dir():
        try:
            _write(pattern, folder)
        except MissingExtraError as error:
            raise Unavailable(
                f"the default data are drawings of the extra `drawings`: {error}"
            ) from error
    return str(folder / "*.tar")


def _write(pattern: str, folder: Path) -> None:
    from coca.data.sources.tar.shards import ShardWriter

    sys.path.append(str(RECIPES))
    from emoji_drawings import emoji_samples

    samples = emoji_samples(VENDORS[pattern], size_px=SIDE_PX)
    with atomic_folder(folder) as unfinished, ShardWriter(unfinished) as writer:
        for sample in samples:
            if pattern != VAL or len(sample.captions) > 1:
                writer.write(sample)


def caption_file() -> str:
    """Write the captions of Twemoji's drawings, one a line, and return the path."""
    path = FOLDER / "captions.txt"
    if not path.exists():
        lines = []
        for shard in sorted(glob.glob(located(TRAIN))):
            with tarfile.open(shard) as tar:
                rows = (tar.extractfile(one) for one in tar if one.name.endswith(".json"))
                lines += [text for row in rows if row for text in json.load(row)["captions"]]
        write_atomic(path, ("\n".join(lines) + "\n").encode())
    return str(path)


def make_photos(folder: Path, pattern: str, count: int) -> None:
    """Link to the files of a pattern, or combine images of shards, twenty to a photo.

    Raises:
        Unavailable: No shard matches the pattern.
    """
    folder.mkdir()
    if pattern.endswith(".jpg"):
        for position, path in enumerate(sorted(glob.glob(located(pattern)))[:count]):
            (folder / f"{position:05}.jpg").symlink_to(Path(path).resolve())
        return
    images = list(islice(_thumbnails(located(pattern)), count * COLUMNS * ROWS))
    for position in range(count):
        photo = Image.new("RGB", (TILE[0] * COLUMNS, TILE[1] * ROWS))
        for tile in range(COLUMNS * ROWS):
            corner = (tile % COLUMNS * TILE[0], tile // COLUMNS * TILE[1])
            photo.paste(images[(position * COLUMNS * ROWS + tile) % len(images)], corner)
        photo.save(folder / f"{position:05}.jpg", quality=90)


def _thumbnails(pattern: str) -> Iterator[Image.Image]:
    for path in sorted(glob.glob(pattern)):
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is not None and not member.name.endswith((".json", ".txt")):
                    image = Image.open(io.BytesIO(stream.read())).convert("RGBA")
                    white = Image.new("RGBA", image.size, "white")
                    yield Image.alpha_composite(white, image).convert("RGB").resize(TILE)
