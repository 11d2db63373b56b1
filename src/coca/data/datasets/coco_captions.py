"""Captions in COCO's own format, which NoCaps shares: images and sentences, joined by number.

    {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", ...}, ...],
     "annotations": [{"image_id": 391895, "id": 770337, "caption": "A man with ..."}, ...]}

An image of NoCaps also has a `domain`: `in-domain`, `near-domain` or `out-domain`.
"""

from typing import Any

from coca.core.errors import DataError
from coca.data.sources.annotated import (
    AnnotatedSource,
    Entry,
    image_folder,
    list_in,
    read_annotations,
    require_splits,
)
from coca.data.sources.base import SOURCES, SourceConfig, reads

_KEPT = ("domain", "open_images_id", "coco_url")


@SOURCES.register("coco_captions")
@reads("images", "split")
def coco_captions(config: SourceConfig) -> AnnotatedSource:
    """The images with all of their captions, in the order of the list of images.

    `config.split` names domains, where images have any. The key is the image's number. A
    caption of an image that is not listed, or a malformed one, stands as a bad sample at the end.

    Raises:
        DataError: The file or the folder is missing, or a domain holds nothing.
    """
    annotations, fingerprint = read_annotations(config)
    captions: dict[Any, list[str]] = {}
    faults: list[Entry | DataError] = []
    for place, note in enumerate(list_in(annotations, "annotations", config.title)):
        try:
            captions.setdefault(note["image_id"], []).append(note["caption"].strip())
        except (KeyError, TypeError, AttributeError) as error:
            faults.append(
                DataError(
                    f"annotation {place} of {config.title} is malformed ({error!r}); right is an "
                    "object with image_id and caption",
                    reason="bad_record",
                )
            )
    entries = [
        _entry(image, captions, f"image {place} of {config.title}")
        for place, image in enumerate(list_in(annotations, "images", config.title))
    ]
    if config.splits:
        require_splits(config, (_domain(entry) for entry in entries))
        entries = [
            entry
            for entry in entries
            if isinstance(entry, DataError) or _domain(entry) in config.splits
        ]
    # Whatever is left over belongs to no image.
    faults += [
        DataError(
            f"a caption of {config.title} belongs to image {number}, which is not listed",
            reason="bad_record",
        )
        for number in captions
    ]
    return AnnotatedSource(entries + faults, images=image_folder(config), fingerprint=fingerprint)


def _entry(image: Any, captions: dict[Any, list[str]], origin: str) -> Entry | DataError:
    """The image with its captions, which are taken out of `captions`."""
    try:
        number, file = image["id"], str(image["file_name"])
        said = tuple(captions.pop(number, ()))
        metadata = {"image_id": number} | {key: image[key] for key in _KEPT if key in image}
        return Entry(str(number), file, said, (), metadata)
    except (KeyError, TypeError) as error:
        return DataError(
            f"{origin} is malformed ({error!r}); right is an object with id and file_name",
            reason="bad_record",
        )


def _domain(entry: Entry | DataError) -> str:
    return "malformed" if isinstance(entry, DataError) else str(entry.metadata.get("domain", ""))
