"""Source `coco_instances`: images with boxes, in COCO's format of detection.

    {"images": [{"id": 397133, "file_name": "000000397133.jpg", "width": 640, "height": 427}, ...],
     "annotations": [{"image_id": 397133, "category_id": 44, "bbox": [217.6, 240.5, 38.9, 57.7],
                      "area": 1481.3, "iscrowd": 0}, ...],
     "categories": [{"id": 44, "name": "bottle"}, ...]}

A box is left, top, width and height in pixels of an image of the listed `width` and `height`. The
file may be another size of the same image. LVIS and many annotation tools use the same format.
"""

import math
from collections.abc import Mapping
from typing import Any

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.annotated import (
    AnnotatedSample,
    AnnotatedSource,
    AnnotationsConfig,
    image_folder,
    list_in,
    malformed,
    read_annotations,
    unlisted,
)
from coca.data.sources.source import SourceKind
from coca.processing.image_file import image_errors, opened, upright_size

QUESTION = "which objects are where"
"""Question of each sample, including images without objects."""

BOXES = "boxes"
"""Metadata key of the objects: a list of name, box, area and crowd."""


def coco_instances(config: AnnotationsConfig) -> AnnotatedSource:
    """Read images with their objects, in the order of the image list.

    The key is the image id. Labels are the category names of the objects; metadata has `width`,
    `height` and `boxes`. A malformed box, or one of an unlisted image or category, becomes a bad
    sample at the end. An image whose sides have another ratio than the listed ones cannot be read,
    since its boxes would be elsewhere.
    """
    annotations, fingerprint = read_annotations(config)
    names = _names(list_in(annotations, "categories", config.title), config.title)
    objects: dict[Any, list[dict[str, Any]]] = {}
    faults: list[AnnotatedSample | DataError] = []
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
        _instances_entry(image, objects, f"image {index} of {config.title}")
        for index, image in enumerate(list_in(annotations, "images", config.title))
    ]
    # Remaining boxes belong to no image.
    faults += unlisted("box", objects, config.title)
    return _InstancesSource(entries + faults, images=image_folder(config), fingerprint=fingerprint)


class _InstancesSource(AnnotatedSource):
    def read(self, row: int) -> Sample:
        sample = super().read(row)
        name = self._entry(row).file
        with image_errors(name), opened(sample.image, name) as (image, _):
            width, height = upright_size(image)
        listed = sample.metadata["width"], sample.metadata["height"]
        # The rounded sides of a resized image change this difference by half a side each.
        if abs(width * listed[1] - height * listed[0]) <= sum(listed):
            return sample
        turned = "; its EXIF orientation may turn it" if (height, width) == listed else ""
        raise DataError(
            f"{name} has {width} x {height} pixels, but is listed with {listed[0]} x {listed[1]}, "
            f"another ratio, so that its boxes would be elsewhere{turned}",
            reason="wrong_size",
        )


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


def _instances_entry(
    image: Any, objects: dict[Any, list[dict[str, Any]]], origin: str
) -> AnnotatedSample | DataError:
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
    return AnnotatedSample(str(number), file, (), labels, metadata, text=QUESTION)


KIND = SourceKind(AnnotationsConfig, coco_instances)
"""The kind of source."""
