"""A detector, its targets and images with boxes, small enough for a test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from coca.experimental.detection.detector import Detector, DetectorConfig, save_detector
from coca.model.pretrained import load_model
from tiny import seed_weights
from tiny_model import write_model

NAMES = {7: "blue square", 3: "red square"}
CLASSES = ("cat", "dog")


def write_detector(folder: Path) -> Path:
    """An untrained detector with confident scores."""
    write_model(folder)
    seed_weights()
    detector = Detector(load_model(folder), DetectorConfig(classes=CLASSES, channels=32))
    with torch.no_grad():
        detector.head.classification_head.cls_logits.bias.fill_(1.0)
    save_detector(folder, detector)
    return folder


def write_scenes(folder: Path) -> Path:
    """Five images with two squares each, and one with none; gives the path of their JSON."""
    count, side = 6, 32
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
