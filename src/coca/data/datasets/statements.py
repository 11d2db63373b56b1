"""Labelled statements about images: SNLI-VE, NLVR and NLVR2.

SNLI-VE visual entailment: JSON lines over the photos of Flickr30k.

    {"Flickr30K_ID": "3416050480", "gold_label": "neutral", "pairID": "3416050480.jpg#4r1n",
     "sentence1": "A man with ...", "sentence2": "The man is tall."}

Xie et al., 2019, arXiv 1901.06706. The second sentence is the hypothesis about the photo. The
first, the premise of the text-only task, is not a model input (CoCa, appendix B).

NLVR and NLVR2: true or false statements about images, as JSON lines.

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
    AnnotatedSample,
    AnnotatedSource,
    AnnotationsConfig,
    image_folder,
    malformed,
    read_lines,
)
from coca.data.sources.source import register_source, single_path
from coca.data.storage.storage import is_remote

SNLI_VE_CLASSES = ("entailment", "neutral", "contradiction")


@register_source("snli_ve", AnnotationsConfig)
def snli_ve(config: AnnotationsConfig) -> AnnotatedSource:
    """Read each hypothesis as the text and its verdict as the label, in file order.

    `config.images` is the folder of Flickr30k's images. The key is `pairID`; the premise becomes
    metadata. A malformed line, or one without a majority verdict (`-`), is a bad sample.
    """
    lines, fingerprint = read_lines(config)
    entries = [
        line
        if isinstance(line, DataError)
        else _hypothesis(line, f"pair {index} of {config.title}")
        for index, line in enumerate(lines)
    ]
    return AnnotatedSource(entries, images=image_folder(config), fingerprint=fingerprint)


def _hypothesis(line: dict[str, Any], origin: str) -> AnnotatedSample | DataError:
    try:
        image, label, hypothesis = line["Flickr30K_ID"], line["gold_label"], line["sentence2"]
        if label not in SNLI_VE_CLASSES:
            return DataError(
                f"{origin} has the label {label!r}; it must be one of {', '.join(SNLI_VE_CLASSES)}",
                reason="unknown_label",
            )
        image = str(image).removesuffix(".jpg")
        return AnnotatedSample(
            str(line.get("pairID", origin)),
            f"{image}.jpg",
            labels=(label,),
            metadata={"image": image, "premise": str(line.get("sentence1", ""))},
            text=hypothesis.strip(),
        )
    except (KeyError, TypeError, AttributeError) as error:
        return malformed(origin, error, "an object with Flickr30K_ID, gold_label and sentence2")


NLVR_CLASSES = ("false", "true")

BOX_ORDERS = 6
"""Images of NLVR for each statement."""

_Reading: TypeAlias = Callable[[dict[str, Any]], list[AnnotatedSample]]


@register_source("nlvr2", AnnotationsConfig)
def nlvr2(config: AnnotationsConfig) -> AnnotatedSource:
    """Read each statement with its two photos, left then right, in file order.

    `config.images` is the folder of the photos, such as `train-10171-0-img0.png`; photos of the
    training set may be in numbered folders. The key is the identifier; the metadata `group`
    identifies the statement across its image pairs. A malformed line is a bad sample.
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

    def read(line: dict[str, Any]) -> list[AnnotatedSample]:
        identifier, text, label = _nlvr_parts(line)
        part, image_set, pair, sentence = identifier.rsplit("-", 3)
        stem = f"{folder(line)}{part}-{image_set}-{pair}"
        return [
            AnnotatedSample(
                identifier,
                f"{stem}-img0.png",
                labels=(label,),
                metadata={"group": f"{part}-{image_set}-{sentence}"},
                text=text,
                others=(f"{stem}-img1.png",),
            )
        ]

    return _nlvr_source(config, images, read)


@register_source("nlvr", AnnotationsConfig)
def nlvr(config: AnnotationsConfig) -> AnnotatedSource:
    """Read each statement six times, once for each order of the boxes, in file order.

    `config.images` is the parent of the numbered image folders, by default `images` next to the
    file. The file name determines the split (`dev.json`). The key is the image name without its
    suffix; the metadata `group` identifies the statement. A malformed line is a bad sample.
    """
    part = Path(single_path(config)).stem
    images = config.images and image_folder(config)
    if not images:
        parent = image_folder(config)
        images = f"{parent}/images" if parent else "images"

    def read(line: dict[str, Any]) -> list[AnnotatedSample]:
        identifier, text, label = _nlvr_parts(line)
        group, _, _ = identifier.partition("-")
        keys = [f"{part}-{identifier}-{order}" for order in range(BOX_ORDERS)]
        return [
            AnnotatedSample(
                key,
                f"{line['directory']}/{key}.png",
                labels=(label,),
                metadata={"group": f"{part}-{group}"},
                text=text,
            )
            for key in keys
        ]

    return _nlvr_source(config, images, read)


def _nlvr_source(config: AnnotationsConfig, images: str, read: _Reading) -> AnnotatedSource:
    lines, fingerprint = read_lines(config)
    entries: list[AnnotatedSample | DataError] = []
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


def _nlvr_parts(line: dict[str, Any]) -> tuple[str, str, str]:
    """Parse identifier, sentence and label of a line."""
    label = str(line["label"]).lower()
    if label not in NLVR_CLASSES:
        raise ValueError(f"the label {line['label']!r}")
    return line["identifier"], line["sentence"].strip(), label
