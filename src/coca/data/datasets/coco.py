"""COCO's formats: captions, Karpathy splits, and instances with boxes.

    {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", ...}, ...],
     "annotations": [{"image_id": 391895, "id": 770337, "caption": "A man with ..."}, ...]}

An image of NoCaps also has a `domain`: `in-domain`, `near-domain` or `out-domain`.

    {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg",
                 "cocoid": 391895, "split": "test",
                 "sentences": [{"raw": "A man with a red helmet ..."}, ...]}, ...]}

COCO has a fourth split, `restval`, which papers add to `train`. `filepath` is absent
in the Flickr files.
"""

from typing import Any

from coca.core.errors import DataError
from coca.data.sources.annotated import (
    AnnotatedSample,
    AnnotatedSource,
    SplitAnnotationsConfig,
    image_folder,
    list_in,
    malformed,
    read_annotations,
    require_splits,
    unlisted,
)
from coca.data.sources.source import register_source

# COCO Captions format, also of NoCaps: images and captions, joined by image id.


_KEPT = ("domain", "open_images_id", "coco_url")


@register_source("coco_captions", SplitAnnotationsConfig)
def coco_captions(config: SplitAnnotationsConfig) -> AnnotatedSource:
    """Read images with all of their captions, in the order of the image list.

    `config.split` selects domains (NoCaps). The key is the image id. A malformed caption, or one of
    an unlisted image, becomes a bad sample at the end.
    """
    annotations, fingerprint = read_annotations(config)
    captions: dict[Any, list[str]] = {}
    faults: list[AnnotatedSample | DataError] = []
    for index, note in enumerate(list_in(annotations, "annotations", config.title)):
        try:
            captions.setdefault(note["image_id"], []).append(note["caption"].strip())
        except (KeyError, TypeError, AttributeError) as error:
            origin = f"annotation {index} of {config.title}"
            faults.append(malformed(origin, error, "an object with image_id and caption"))
    entries = [
        _entry(image, captions, f"image {index} of {config.title}")
        for index, image in enumerate(list_in(annotations, "images", config.title))
    ]
    if config.splits:
        require_splits(config, (_domain(entry) for entry in entries))
        entries = [
            entry
            for entry in entries
            if isinstance(entry, DataError) or _domain(entry) in config.splits
        ]
    # Remaining captions belong to no image.
    faults += unlisted("caption", captions, config.title)
    return AnnotatedSource(entries + faults, images=image_folder(config), fingerprint=fingerprint)


def _entry(image: Any, captions: dict[Any, list[str]], origin: str) -> AnnotatedSample | DataError:
    """Build the entry of an image; its captions are removed from `captions`."""
    try:
        number, file = image["id"], str(image["file_name"])
        texts = tuple(captions.pop(number, ()))
        metadata = {"image_id": number} | {key: image[key] for key in _KEPT if key in image}
        return AnnotatedSample(str(number), file, texts, (), metadata)
    except (KeyError, TypeError) as error:
        return malformed(origin, error, "an object with id and file_name")


def _domain(entry: AnnotatedSample | DataError) -> str:
    return "malformed" if isinstance(entry, DataError) else str(entry.metadata.get("domain", ""))


# Karpathy splits of COCO, Flickr30k and Flickr8k: one JSON file with five captions per image.


@register_source("karpathy", SplitAnnotationsConfig)
def karpathy(config: SplitAnnotationsConfig) -> AnnotatedSource:
    """Read the images of `config.split` with all of their captions, in file order.

    `config.images` is the parent folder of `filepath`, or the image folder without `filepath`. The
    key is the file name; metadata has COCO's image id as `cocoid`, and `split`.
    """
    annotations, fingerprint = read_annotations(config)
    entries = [
        _karpathy_entry(image, f"image {index} of {config.title}")
        for index, image in enumerate(list_in(annotations, "images", config.title))
    ]
    require_splits(config, (_split(entry) for entry in entries))
    wanted = [
        entry
        for entry in entries
        # A malformed entry may belong to any split, so keep it to report it.
        if isinstance(entry, DataError) or not config.splits or _split(entry) in config.splits
    ]
    return AnnotatedSource(wanted, images=image_folder(config), fingerprint=fingerprint)


def _karpathy_entry(image: Any, origin: str) -> AnnotatedSample | DataError:
    try:
        folder, name = image.get("filepath", ""), image["filename"]
        captions = tuple(sentence["raw"].strip() for sentence in image["sentences"])
        metadata = {key: image[key] for key in ("split", "cocoid") if key in image}
        file = f"{folder}/{name}" if folder else name
        return AnnotatedSample(name.rpartition(".")[0] or name, file, captions, (), metadata)
    except (KeyError, TypeError, AttributeError) as error:
        right = "an object with filename, split, and sentences that each have a raw"
        return malformed(origin, error, right)


def _split(entry: AnnotatedSample | DataError) -> str:
    return "malformed" if isinstance(entry, DataError) else str(entry.metadata.get("split", ""))
