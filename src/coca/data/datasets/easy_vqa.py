"""Dataset easy-VQA: questions about coloured shapes, in the layout of its pip package.

train/questions.json    [["what color is the shape?", "blue", 0], ...], the last is the image
train/images/0.png      64 x 64 pixels
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coca.core.errors import DataError
from coca.core.extras import require
from coca.data.sources.annotated import (
    AnnotatedSource,
    Entry,
    fingerprint_of,
    malformed,
    parse_json,
    require_splits,
)
from coca.data.sources.source import SplitConfig, register_source, single_path
from coca.data.storage.storage import Storage

INSTALLED = "installed"
"""Path value that selects the data of the installed package."""

_PARTS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class EasyVQAConfig(SplitConfig):
    """Settings of easy-VQA."""

    kind: str = "easy_vqa"


@register_source("easy_vqa", EasyVQAConfig)
def easy_vqa(config: EasyVQAConfig) -> AnnotatedSource:
    """Read each question with its single answer, in file order.

    `config.path` is a folder with the layout above, or `installed`; `config.split` is `train` or
    `test` (default: both). The image number becomes the metadata `image`.

    Raises:
        DataError: A file is missing, or there is no such split.
        MissingExtraError: The path is `installed`, and the package is not.
    """
    folder = single_path(config)
    if folder == INSTALLED:
        module = require("easy_vqa", extra="vqa")
        folder = str(Path(str(module.__file__)).parent / "data")
    parts = config.splits or _PARTS
    there = [
        part for part in {*_PARTS, *parts} if os.path.isfile(f"{folder}/{part}/questions.json")
    ]
    require_splits(config, there)
    storage = Storage()
    contents = {part: storage.read_all(f"{folder}/{part}/questions.json") for part in parts}
    entries: list[Entry | DataError] = []
    for part, content in contents.items():
        path, seen = f"{folder}/{part}/questions.json", Counter[int]()
        entries += [
            _entry(row, part, seen, f"question {index} of {path}")
            for index, row in enumerate(parse_json(content, path, list))
        ]
    return AnnotatedSource(
        entries, images=folder, fingerprint=fingerprint_of(contents.values(), config)
    )


def _entry(row: Any, part: str, seen: Counter[int], origin: str) -> Entry | DataError:
    try:
        question, answer, image = row
        number = int(image)
    except (TypeError, ValueError) as error:
        return malformed(origin, error, "a list of question, answer and number of the image")
    key = f"{part}-{number}-{seen[number]}"
    seen[number] += 1
    return Entry(
        key,
        f"{part}/images/{number}.png",
        metadata={"image": number, "split": part},
        text=str(question),
        answers=(str(answer),),
    )
