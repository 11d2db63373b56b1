"""COCO Instances format: images, bounding boxes and categories, joined by id.

    {"images": [{"id": 397133, "file_name": "000000397133.jpg", "width": 640, "height": 427}, ...],
     "annotations": [{"image_id": 397133, "category_id": 44, "bbox": [217.6, 240.5, 38.9, 57.7],
                      "area": 1481.3, "iscrowd": 0}, ...],
     "categories": [{"id": 44, "name": "bottle"}, ...]}

A box is left, top, width and height in pixels. LVIS and many annotation tools use the same format.
"""

import math
from collections.abc import Mapping
from typing import Any

from coca.core.errors import DataError
from coca.data.sources.annotated import (
    AnnotatedSource,
    AnnotationsConfig,
    Entry,
    image_folder,
    list_in,
    malformed,
    read_annotations,
    unlisted,
)
from coca.data.sources.base import register_source

QUESTION = "which objects are where"
"""Question of each sample, including images without objects."""

BOXES = "boxes"
"""Metadata key of the objects: a list of name, box, area and crowd."""


@register_source("coco_instances", AnnotationsConfig)
def coco_instances(config: AnnotationsConfig) -> AnnotatedSource:
    """Read images with their objects, in the order of the image list.

    The key is the image id. Labels are the category names of the objects; metadata has `width`,
    `height` and `boxes`. A malformed box, or one of an unlisted image or category, becomes a bad
    sample at the end.

    Raises:
        DataError: The file or the folder of the images is missing or malformed.
    """
    annotations, fingerprint = read_annotations(config)
    names = _names(list_in(annotations, "categories", config.title), config.title)
    objects: dict[Any, list[dict[str, Any]]] = {}
    faults: list[Entry | DataError] = []
    for index, note in enumerate(list_in(annotations, "annotations", config.title)):
        try:
            objects.setdefault(note["image_id"], []).append(_object(note, names))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            right = (
                "an object with image_id, category_id, and bbox of four numbers, with width and "
                "height above 0"
            )
            faults.append(malformed(f"annotation {index} of {config.title}", error, right))
    entries = [
        _entry(image, objects, f"image {index} of {config.title}")
        for index, image in enumerate(list_in(annotations, "images", config.title))
    ]
    # Remaining boxes belong to no image.
    faults += unlisted("box", objects, config.title)
    return AnnotatedSource(entries + faults, images=image_folder(config), fingerprint=fingerprint)


def _names(categories: list[Any], title: str) -> dict[Any, str]:
    try:
        return {category["id"]: str(category["name"]) for category in categories}
    except (KeyError, TypeError) as error:
        raise malformed(f"a category of {title}", error, "an object with id and name") from error


def _object(note: Mapping[str, Any], names: Mapping[Any, str]) -> dict[str, Any]:
    left, top, width, height = (float(number) for number in note["bbox"])
    if not (math.isfinite(left + top + width + height) and width > 0 and height > 0):
        raise ValueError(f"bbox {note['bbox']}")
    return {
        "name": names[note["category_id"]],
        "box": [left, top, width, height],
        # Area of the segmentation mask in COCO; it separates small from large objects.
        "area": float(note.get("area", width * height)),
        "crowd": bool(note.get("iscrowd", 0)),
    }


def _entry(image: Any, objects: dict[Any, list[dict[str, Any]]], origin: str) -> Entry | DataError:
    """Build the entry of an image; its objects are removed from `objects`."""
    try:
        number, file = image["id"], str(image["file_name"])
        size = {side: int(image[side]) for side in ("width", "height")}
        if min(size.values()) < 1:
            raise ValueError(f"size {size}")
        found = objects.pop(number, [])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        return malformed(origin, error, "an object with id, file_name, width and height")
    labels = tuple(dict.fromkeys(one["name"] for one in found))
    metadata = {"image_id": number, **size, BOXES: found}
    return Entry(str(number), file, (), labels, metadata, text=QUESTION)
