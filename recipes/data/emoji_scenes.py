"""Compose detection data: emoji on random backgrounds with bounding boxes, in COCO format.

    python recipes/data/emoji_scenes.py runs/scenes/train --count 800 --seed 1

Each scene depends only on the seed and its number. The drawings come from the packages of the extra
`drawings`.
"""

import argparse
import io
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from coca.core.errors import ConfigError
from coca.core.files.atomic import atomic_folder
from emoji_drawings import VENDORS, emoji_samples

CLASSES = {
    "apple": "1f34e",
    "balloon": "1f388",
    "cactus": "1f335",
    "car": "1f697",
    "fish": "1f41f",
    "frog": "1f438",
    "guitar": "1f3b8",
    "mushroom": "1f344",
    "rocket": "1f680",
    "soccer ball": "26bd",
}
"""Class names and the codes of their emoji."""

OTHERS = ("1f310", "1f4a1", "1f511", "1f381", "1f33b", "1f427", "1f355", "1f6b2", "1f3e0", "2615")
"""Distractor emoji, which are not annotated."""

MOST_OBJECTS, MOST_OTHERS = 5, 2
SMALLEST, LARGEST = 0.18, 0.45
"""Range of a drawing's longer side, as a fraction of the scene's side."""
MAX_OVERLAP = 0.15
"""Maximum overlap of two boxes: intersection over the area of the smaller box."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, pixels."""


def write_scenes(
    out: Path,
    *,
    vendor: str,
    count: int,
    size_px: int = 128,
    seed: int = 0,
) -> int:
    """Write `pictures/` and `instances.json` into a new folder; return the number of objects.

    Args:
        out: Output folder.
        vendor: Vendor of the emoji, see `emoji_samples`.
        count: Number of scenes, at least 1.
        size_px: Side of a scene, pixels, at least 32.
        seed: Seed of the scenes.

    Raises:
        ConfigError: The vendor is unknown, or `count` or `size_px` is too small.
        MissingExtraError: The extra `drawings` is not installed.
    """
    if count < 1 or size_px < 32:
        raise ConfigError(
            f"count must be at least 1 and size_px at least 32, got {count} and {size_px}"
        )
    drawings = read_drawings(vendor)
    numbers = {name: number for number, name in enumerate(CLASSES, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with atomic_folder(out) as unfinished:
        (unfinished / "pictures").mkdir()
        for number in range(count):
            scene, found = compose(drawings, size_px, random.Random(f"{seed} {number}"))
            file = f"{number:06d}.png"
            scene.save(unfinished / "pictures" / file)
            images.append({"id": number, "file_name": file, "width": size_px, "height": size_px})
            for name, (left, top, right, bottom) in found:
                box = [left, top, right - left, bottom - top]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": numbers[name],
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        }
        (unfinished / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return len(annotations)


def read_drawings(vendor: str) -> dict[str, Image.Image]:
    """Read a vendor's drawings of `CLASSES` by name, and of `OTHERS` by code, as RGBA.

    Raises:
        ConfigError: There is no such vendor.
        MissingExtraError: The extra `drawings` is not installed.
    """
    names = {code: name for name, code in CLASSES.items()} | {code: code for code in OTHERS}
    found = {}
    for sample in emoji_samples(vendor, size_px=72):
        code = sample.metadata["codepoints"].removesuffix("-fe0f")
        if code in names:
            drawing = Image.open(io.BytesIO(sample.image)).convert("RGBA")
            found[names[code]] = drawing.crop(drawing.getchannel("A").getbbox())
    return found


def compose(
    drawings: Mapping[str, Image.Image], size_px: int, chance: random.Random
) -> tuple[Image.Image, list[tuple[str, Box]]]:
    """Compose a scene; return it with the name and tight box of each object."""
    scene = _background(size_px, chance)
    names = [chance.choice(list(CLASSES)) for _ in range(chance.randint(1, MOST_OBJECTS))]
    others = [chance.choice(OTHERS) for _ in range(chance.randint(0, MOST_OTHERS))]
    boxes: list[Box] = []
    found = []
    for name in (*names, *others):
        drawing = _changed(drawings[name], size_px, chance)
        box = _free_place(drawing.size, size_px, boxes, chance)
        if box is None:
            continue
        scene.paste(drawing, box[:2], drawing)
        boxes.append(box)
        if name in CLASSES:
            found.append((name, box))
    return scene, found


def _changed(drawing: Image.Image, size_px: int, chance: random.Random) -> Image.Image:
    """Flip, rotate and scale a drawing at random, cropped to its visible part."""
    if chance.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawing = drawing.rotate(chance.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
    drawing = drawing.crop(_seen(drawing))
    scale = chance.uniform(SMALLEST, LARGEST) * size_px / max(drawing.size)
    size = [max(1, round(side * scale)) for side in drawing.size]
    drawing = drawing.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return drawing.crop(_seen(drawing))


def _seen(drawing: Image.Image) -> tuple[int, int, int, int]:
    """Return the bounding box of the visible pixels."""
    box = drawing.getchannel("A").point(lambda alpha: 255 * (alpha > 32)).getbbox()
    assert box is not None, "no emoji is empty"
    return box


def _free_place(
    size: tuple[int, int], size_px: int, taken: list[Box], chance: random.Random
) -> Box | None:
    """Find a box with little overlap with others; None after 20 attempts."""
    for _ in range(20):
        left = chance.randint(0, size_px - size[0])
        top = chance.randint(0, size_px - size[1])
        box = (left, top, left + size[0], top + size[1])
        if all(_overlap(box, other) <= MAX_OVERLAP for other in taken):
            return box
    return None


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0, width) * max(0, height) / smaller


def _background(size_px: int, chance: random.Random) -> Image.Image:
    """Create a background: a colour gradient, translucent shapes, and noise."""
    colours = [np.array([chance.randint(90, 255) for _ in range(3)]) for _ in range(2)]
    angle = chance.uniform(0, 2 * math.pi)
    axis = np.linspace(-0.5, 0.5, size_px)
    slope = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    share = (slope / math.sqrt(2) + 0.5)[..., None]
    image = Image.fromarray(_bytes(colours[0] * share + colours[1] * (1 - share)))
    shapes = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(shapes)
    for _ in range(chance.randint(0, 6)):
        left, top = (chance.randint(-size_px // 4, size_px) for _ in range(2))
        width, height = (chance.randint(size_px // 10, size_px // 2) for _ in range(2))
        colour = (*(chance.randint(0, 255) for _ in range(3)), chance.randint(40, 140))
        shape = chance.choice((draw.ellipse, draw.rectangle))
        shape((left, top, left + width, top + height), fill=colour)
    image.paste(shapes, mask=shapes)
    grain = np.random.default_rng(chance.getrandbits(32)).normal(0, 6, (size_px, size_px, 1))
    return Image.fromarray(_bytes(np.asarray(image) + grain))


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return values.clip(0, 255).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the scenes as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--vendor", choices=VENDORS, default=VENDORS[0], help="vendor of the emoji")
    parser.add_argument("--count", type=int, default=1000, help="number of scenes")
    parser.add_argument("--size-px", type=int, default=128, help="side of a scene, pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    given = parser.parse_args(arguments)
    objects = write_scenes(**vars(given))
    print(f"{given.count:,} scenes with {objects:,} objects of {given.vendor} are in {given.out}")


if __name__ == "__main__":
    main()
