"""Karpathy splits of COCO, Flickr30k and Flickr8k: one JSON file with five captions per image.

    {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg",
                 "cocoid": 391895, "split": "test",
                 "sentences": [{"raw": "A man with a red helmet ..."}, ...]}, ...]}

COCO has a fourth split, `restval`, which papers add to `train`. `filepath` is absent
in the Flickr files.
"""

from typing import Any

from coca.core.errors import DataError
from coca.data.sources.annotated import (
    AnnotatedSource,
    Entry,
    SplitAnnotationsConfig,
    image_folder,
    list_in,
    malformed,
    read_annotations,
    require_splits,
)
from coca.data.sources.base import register_source


@register_source("karpathy", SplitAnnotationsConfig)
def karpathy(config: SplitAnnotationsConfig) -> AnnotatedSource:
    """Read the images of `config.split` with all of their captions, in file order.

    `config.images` is the parent folder of `filepath`, or the image folder without `filepath`. The
    key is the file name; metadata has COCO's image id as `cocoid`, and `split`.

    Raises:
        DataError: The file or the folder is missing, or a split has no image.
    """
    annotations, fingerprint = read_annotations(config)
    entries = [
        _entry(image, f"image {index} of {config.title}")
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


def _entry(image: Any, origin: str) -> Entry | DataError:
    try:
        folder, name = image.get("filepath", ""), image["filename"]
        captions = tuple(sentence["raw"].strip() for sentence in image["sentences"])
        metadata = {key: image[key] for key in ("split", "cocoid") if key in image}
        file = f"{folder}/{name}" if folder else name
        return Entry(name.rpartition(".")[0] or name, file, captions, (), metadata)
    except (KeyError, TypeError, AttributeError) as error:
        right = "an object with filename, split, and sentences that each have a raw"
        return malformed(origin, error, right)


def _split(entry: Entry | DataError) -> str:
    return "malformed" if isinstance(entry, DataError) else str(entry.metadata.get("split", ""))
