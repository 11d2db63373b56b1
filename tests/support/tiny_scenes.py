"""Scenes small enough for a test: squares of two colours on gray, in COCO's format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = {7: "blue square", 3: "red square"}


def write_scenes(folder: Path, count: int = 6, *, side: int = 32) -> Path:
    """Images with two squares each, and one with none at the end; gives the JSON's path."""
    (folder / "pictures").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        pixels = np.full((side, side, 3), 128, np.uint8)
        chance = np.random.default_rng(number)
        for half, category in enumerate(NAMES) if number < count - 1 else ():
            left = int(chance.integers(0, side // 2 - 10)) + half * side // 2
            top = int(chance.integers(0, side - 12))
            pixels[top : top + 12, left : left + 10] = (0, 0, 255) if category == 7 else (255, 0, 0)
            box = [left, top, 10, 12]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": 120,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": side, "height": side})
    write_instances(folder / "instances.json", images, annotations)
    return folder / "instances.json"


def write_instances(path: Path, images: list[Any], annotations: list[Any]) -> None:
    categories = [{"id": number, "name": name} for number, name in NAMES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
