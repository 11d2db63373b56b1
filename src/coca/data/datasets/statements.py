"""Labelled statements about images: SNLI-VE and NLVR2.

SNLI-VE visual entailment: JSON lines over the photos of Flickr30k.

    {"Flickr30K_ID": "3416050480", "gold_label": "neutral", "pairID": "3416050480.jpg#4r1n",
     "sentence1": "A man with ...", "sentence2": "The man is tall."}

Xie et al., 2019, arXiv 1901.06706. The second sentence is the hypothesis about the photo. The
first, the premise of the text-only task, is not a model input (CoCa, appendix B).

NLVR2: true or false statements about pairs of photos, as JSON lines.

    {"identifier": "train-10171-0-0", "directory": 42, "sentence": "...", "label": "True"}

Suhr et al., 2018, arXiv 1811.00491.
"""

import os
from typing import Any

from coca.core.errors import DataError
from coca.data.sources.annotated import (
    AnnotatedSample,
    AnnotatedSource,
    AnnotationsConfig,
    image_folder,
    malformed,
    read_lines,
)
from coca.data.sources.source import register_source
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


NLVR2_CLASSES = ("false", "true")


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

    lines, fingerprint = read_lines(config)
    entries: list[AnnotatedSample | DataError] = []
    for index, line in enumerate(lines):
        if isinstance(line, DataError):
            entries.append(line)
            continue
        origin = f"statement {index} of {config.title}"
        try:
            entries.append(_statement(line, folder(line)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            right = "an object with identifier, sentence, and label true or false"
            entries.append(malformed(origin, error, right))
    return AnnotatedSource(entries, images=images, fingerprint=fingerprint)


def _statement(line: dict[str, Any], folder: str) -> AnnotatedSample:
    identifier, label = line["identifier"], str(line["label"]).lower()
    if label not in NLVR2_CLASSES:
        raise ValueError(f"the label {line['label']!r}")
    part, image_set, pair, sentence = identifier.rsplit("-", 3)
    stem = f"{folder}{part}-{image_set}-{pair}"
    return AnnotatedSample(
        identifier,
        f"{stem}-img0.png",
        labels=(label,),
        metadata={"group": f"{part}-{image_set}-{sentence}"},
        text=line["sentence"].strip(),
        others=(f"{stem}-img1.png",),
    )
