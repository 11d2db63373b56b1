"""Photos for benchmarks: links to files, or collages of the thumbnails of Flickr8k."""

import glob
import io
import tarfile
from pathlib import Path

from PIL import Image
from side_by_side import Unavailable

TILE, COLUMNS, ROWS = (128, 120), 5, 4
SHARDS = "../shared/data/flickr8k/val-*.tar"


def make_photos(folder: Path, pattern: str, count: int) -> None:
    """Link to the files of a pattern, or combine thumbnails of shards, twenty to a photo.

    Raises:
        Unavailable: No shard matches the pattern.
    """
    folder.mkdir()
    if pattern.endswith(".jpg"):
        for position, path in enumerate(sorted(glob.glob(pattern))[:count]):
            (folder / f"{position:05}.jpg").symlink_to(Path(path).resolve())
        return
    thumbnails = []
    for path in sorted(glob.glob(pattern)):
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.name.endswith(".json") and (stream := tar.extractfile(member)):
                    image = Image.open(io.BytesIO(stream.read()))
                    thumbnails.append(image.convert("RGB").resize(TILE))
    if not thumbnails:
        raise Unavailable(f"no shard matches {pattern}; name JPEG files or shards")
    for position in range(count):
        photo = Image.new("RGB", (TILE[0] * COLUMNS, TILE[1] * ROWS))
        for tile in range(COLUMNS * ROWS):
            corner = (tile % COLUMNS * TILE[0], tile // COLUMNS * TILE[1])
            photo.paste(thumbnails[(position * COLUMNS * ROWS + tile) % len(thumbnails)], corner)
        photo.save(folder / f"{position:05}.jpg", quality=90)


def require(pattern: str) -> None:
    """Raise `Unavailable` if no file matches the pattern."""
    if not glob.glob(pattern):
        raise Unavailable(f"no file matches {pattern}")
