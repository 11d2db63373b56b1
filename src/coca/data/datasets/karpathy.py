"""Karpathy's splits of COCO, Flickr30k and Flickr8k: one JSON file with five sentences an image.

    {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg",
                 "cocoid": 391895, "split": "test",
                 "sentences": [{"raw": "A man with a red helmet ..."}, ...]}, ...]}

COCO has a fourth split, `restval`, that papers train on together with `train`. `filepath` is absent
in the Flickr files.
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


@SOURCES.register("karpathy")
@reads("images", "split")
def karpathy(config: SourceConfig) -> AnnotatedSource:
    """The images of `config.split` with all of their sentences, in the order of the file.

    `config.images` is the folder above `filepath`, or that of the files where there is none. The
    key is the file's name; COCO's number becomes the metadata `cocoid`, the split `split`.

    Raises:
        DataError: The file or the folder is missing, or a split holds nothing.
    """
    annotations, fingerprint = read_annotations(config)
    entries = [
        _entry(image, f"image {place} of {config.title}")
        for place, image in enumerate(list_in(annotations, "images", config.title))
    ]
    require_splits(config, (_split(entry) for entry in entries))
    wanted = [
        entry
        for entry in entries
        # An entry that cannot be read may belong anywhere, and must not vanish.
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
        return DataError(
            f"{origin} is malformed ({error!r}); right is an object with filename, split, and "
            "sentences that each have a raw",
            reason="bad_record",
        )


def _split(entry: Entry | DataError) -> str:
    return "malformed" if isinstance(entry, DataError) else str(entry.metadata.get("split", ""))
