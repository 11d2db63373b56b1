"""DAQUAR: visual question answering about indoor photos; alternating question and answer lines.

    what is on the right side of the black telephone in the image3 ?
    desk
    what is on the desk in the image3 ?
    book, scissor, papers, tape_dispenser

Malinowski and Fritz, 2014, arXiv 1410.0210; the photos are those of NYU Depth v2.
"""

import re
from collections import Counter

from coca.core.annotations import parse_text
from coca.core.errors import DataError
from coca.data.sources.annotated import (
    AnnotatedSource,
    AnnotationsConfig,
    Entry,
    fingerprint_of,
    image_folder,
)
from coca.data.sources.source import register_source, single_path
from coca.data.storage.storage import Storage

_QUESTION = re.compile(
    r"(?P<question>.*?)\s*(?:\b(?:in|on|of)\s+(?:the\s+)?)?\b(?P<image>image\d+)\s*\?*\s*"
)


@register_source("daquar", AnnotationsConfig)
def daquar(config: AnnotationsConfig) -> AnnotatedSource:
    """Read each question with its single answer, in file order.

    `config.images` is the folder of the PNG photos. The name of the photo is removed from the
    question and becomes the metadata `image`; the key is that name and a number. An answer with
    several objects remains one comma-separated text.

    Raises:
        DataError: The file or the folder is missing.
    """
    path = single_path(config)
    content = Storage().read_all(path)
    lines = [line.strip() for line in parse_text(content, path).splitlines() if line.strip()]
    seen = Counter[str]()
    entries = [
        _entry(lines[index : index + 2], seen, f"question {index // 2} of {path}")
        for index in range(0, len(lines), 2)
    ]
    return AnnotatedSource(
        entries, images=image_folder(config), fingerprint=fingerprint_of([content], config)
    )


def _entry(pair: list[str], seen: Counter[str], origin: str) -> Entry | DataError:
    if len(pair) < 2:
        return DataError(f"{origin}, the last one, has no answer", reason="no_answer")
    question, answer = pair
    found = _QUESTION.fullmatch(question)
    if found is None or not found["question"]:
        return DataError(
            f"{origin}, {question!r:.80}, does not end in the name of a photo such as `image3 ?`; "
            "if the line is an answer, its question is missing",
            reason="bad_record",
        )
    image = found["image"]
    key = f"{image}-{seen[image]}"
    seen[image] += 1
    return Entry(
        key,
        f"{image}.png",
        metadata={"image": image},
        text=found["question"],
        answers=(answer,),
    )
