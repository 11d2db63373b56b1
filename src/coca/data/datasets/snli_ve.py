"""SNLI-VE visual entailment: JSON lines over the photos of Flickr30k.

    {"Flickr30K_ID": "3416050480", "gold_label": "neutral", "pairID": "3416050480.jpg#4r1n",
     "sentence1": "A man with ...", "sentence2": "The man is tall."}

Xie et al., 2019, arXiv 1901.06706. The second sentence is the hypothesis about the photo. The
first, the premise of the text-only task, is not a model input (CoCa, appendix B).
"""

from typing import Any

from coca.core.errors import DataError
from coca.data.sources.annotated import (
    AnnotatedSource,
    AnnotationsConfig,
    Entry,
    image_folder,
    malformed,
    read_lines,
)
from coca.data.sources.source import register_source

CLASSES = ("entailment", "neutral", "contradiction")


@register_source("snli_ve", AnnotationsConfig)
def snli_ve(config: AnnotationsConfig) -> AnnotatedSource:
    """Read each hypothesis as the text and its verdict as the label, in file order.

    `config.images` is the folder of Flickr30k's images. The key is `pairID`; the premise becomes
    metadata. A malformed line, or one without a majority verdict (`-`), is a bad sample.

    Raises:
        DataError: The file or the folder is missing.
    """
    lines, fingerprint = read_lines(config)
    entries = [
        line if isinstance(line, DataError) else _entry(line, f"pair {index} of {config.title}")
        for index, line in enumerate(lines)
    ]
    return AnnotatedSource(entries, images=image_folder(config), fingerprint=fingerprint)


def _entry(line: dict[str, Any], origin: str) -> Entry | DataError:
    try:
        image, label, hypothesis = line["Flickr30K_ID"], line["gold_label"], line["sentence2"]
        if label not in CLASSES:
            return DataError(
                f"{origin} has the label {label!r}; it must be one of {', '.join(CLASSES)}",
                reason="unknown_label",
            )
        image = str(image).removesuffix(".jpg")
        return Entry(
            str(line.get("pairID", origin)),
            f"{image}.jpg",
            labels=(label,),
            metadata={"image": image, "premise": str(line.get("sentence1", ""))},
            text=hypothesis.strip(),
        )
    except (KeyError, TypeError, AttributeError) as error:
        return malformed(origin, error, "an object with Flickr30K_ID, gold_label and sentence2")
