"""NLVR and NLVR2: true or false statements about images, as JSON lines.

    NLVR   {"identifier": "3988-0", "directory": "99", "sentence": "There is ...", "label": "true"}
    NLVR2  {"identifier": "train-10171-0-0", "directory": 42, "sentence": ..., "label": "True"}

Suhr et al., 2017 and 2018, arXiv 1811.00491. A line of NLVR describes six images with the
same three boxes in different orders; a line of NLVR2 describes a pair of photos.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from coca.core.errors import DataError
from coca.data.sources.annotated import (
    AnnotatedSource,
    AnnotationsConfig,
    Entry,
    image_folder,
    malformed,
    read_lines,
)
from coca.data.sources.source import register_source, single_path
from coca.data.storage.storage import is_remote

CLASSES = ("false", "true")

BOX_ORDERS = 6
"""Images of NLVR for each statement."""

_Reading: TypeAlias = Callable[[dict[str, Any]], list[Entry]]


@register_source("nlvr2", AnnotationsConfig)
def nlvr2(config: AnnotationsConfig) -> AnnotatedSource:
    """Read each statement with its two photos, left then right, in file order.

    `config.images` is the folder of the photos, such as `train-10171-0-img0.png`; photos of the
    training set may be in numbered folders. The key is the identifier; the metadata `group`
    identifies the statement across its image pairs. A malformed line is a bad sample.

    Raises:
        DataError: The file or the folder is missing.
    """
    images = image_folder(config)
    numbered: dict[str, bool] = {}

    def folder(line: dict[str, Any]) -> str:
        """Return `42/` if the photos are in numbered folders, else an empty string."""
        name = str(line.get("directory", ""))
        if name not in numbered:
            numbered[name] = bool(name) and (
                is_remote(images) or os.path.isdir(os.path.join(images, name))
            )
        return f"{name}/" if numbered[name] else ""

    def read(line: dict[str, Any]) -> list[Entry]:
        identifier, text, label = _parts(line)
        part, image_set, pair, sentence = identifier.rsplit("-", 3)
        stem = f"{folder(line)}{part}-{image_set}-{pair}"
        return [
            Entry(
                identifier,
                f"{stem}-img0.png",
                labels=(label,),
                metadata={"group": f"{part}-{image_set}-{sentence}"},
                text=text,
                others=(f"{stem}-img1.png",),
            )
        ]

    return _source(config, images, read)


@register_source("nlvr", AnnotationsConfig)
def nlvr(config: AnnotationsConfig) -> AnnotatedSource:
    """Read each statement six times, once for each order of the boxes, in file order.

    `config.images` is the parent of the numbered image folders, by default `images` next to the
    file. The file name determines the split (`dev.json`). The key is the image name without its
    suffix; the metadata `group` identifies the statement. A malformed line is a bad sample.

    Raises:
        DataError: The file or the folder is missing.
    """
    part = Path(single_path(config)).stem
    images = config.images and image_folder(config)
    if not images:
        parent = image_folder(config)
        images = f"{parent}/images" if parent else "images"

    def read(line: dict[str, Any]) -> list[Entry]:
        identifier, text, label = _parts(line)
        group, _, _ = identifier.partition("-")
        keys = [f"{part}-{identifier}-{order}" for order in range(BOX_ORDERS)]
        return [
            Entry(
                key,
                f"{line['directory']}/{key}.png",
                labels=(label,),
                metadata={"group": f"{part}-{group}"},
                text=text,
            )
            for key in keys
        ]

    return _source(config, images, read)


def _source(config: AnnotationsConfig, images: str, read: _Reading) -> AnnotatedSource:
    lines, fingerprint = read_lines(config)
    entries: list[Entry | DataError] = []
    for index, line in enumerate(lines):
        if isinstance(line, DataError):
            entries.append(line)
            continue
        origin = f"statement {index} of {config.title}"
        try:
            entries += read(line)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            right = "an object with identifier, sentence, and label true or false"
            entries.append(malformed(origin, error, right))
    return AnnotatedSource(entries, images=images, fingerprint=fingerprint)


def _parts(line: dict[str, Any]) -> tuple[str, str, str]:
    """Parse identifier, sentence and label of a line."""
    label = str(line["label"]).lower()
    if label not in CLASSES:
        raise ValueError(f"the label {line['label']!r}")
    return line["identifier"], line["sentence"].strip(), label
