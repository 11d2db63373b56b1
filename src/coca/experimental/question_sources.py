"""Small data sets of visual questions: DAQUAR and easy-VQA.

DAQUAR: visual question answering about indoor photos; alternating question and answer lines.

    what is on the right side of the black telephone in the image3 ?
    desk
    what is on the desk in the image3 ?
    book, scissor, papers, tape_dispenser

Malinowski and Fritz, 2014, arXiv 1410.0210; the photos are those of NYU Depth v2.

Dataset easy-VQA: questions about coloured shapes, in the layout of its pip package.

train/questions.json    [["what color is the shape?", "blue", 0], ...], the last is the image
train/images/0.png      64 x 64 pixels
"""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from coca.core.annotations import parse_text
from coca.core.errors import DataError
from coca.core.extras import require
from coca.data.sources.annotated import (
    AnnotatedSource,
    AnnotationsConfig,
    Entry,
    fingerprint_of,
    image_folder,
    malformed,
    parse_json,
    require_splits,
)
from coca.data.sources.source import SourceKind, SplitConfig, single_path
from coca.data.storage.storage import Storage

_DAQUAR_QUESTION = re.compile(
    r"(?P<question>.*?) ?(?:\b(?:in|on|of) (?:the )?)?\b(?P<image>image\d+) ?\?* ?"
)


def daquar(config: AnnotationsConfig) -> AnnotatedSource:
    """Read each question with its single answer, in file order.

    `config.images` is the folder of the PNG photos. The name of the photo is removed from the
    question and becomes the metadata `image`; the key is that name and a number. An answer with
    several objects remains one comma-separated text.
    """
    path = single_path(config)
    content = Storage().read_all(path)
    lines = [line.strip() for line in parse_text(content, path).splitlines() if line.strip()]
    seen = Counter[str]()
    entries = [
        _daquar_entry(lines[index : index + 2], seen, f"question {index // 2} of {path}")
        for index in range(0, len(lines), 2)
    ]
    return AnnotatedSource(
        entries, images=image_folder(config), fingerprint=fingerprint_of([content], config)
    )


def _daquar_entry(pair: list[str], seen: Counter[str], origin: str) -> Entry | DataError:
    if len(pair) < 2:
        return DataError(f"{origin}, the last one, has no answer", reason="no_answer")
    question, answer = pair
    found = _DAQUAR_QUESTION.fullmatch(" ".join(question.split()))
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


INSTALLED = "installed"
"""Path value that selects the data of the installed package."""

_EASY_PARTS = ("train", "test")


class EasyVQAConfig(SplitConfig):
    """Settings of easy-VQA."""

    kind: str = "easy_vqa"


def easy_vqa(config: EasyVQAConfig) -> AnnotatedSource:
    """Read each question with its single answer, in file order.

    `config.path` is a folder with the layout above, or `installed`; `config.split` is `train` or
    `test` (default: both). The image number becomes the metadata `image`.
    """
    folder = single_path(config)
    if folder == INSTALLED:
        module = require("easy_vqa", extra="vqa")
        folder = str(Path(str(module.__file__)).parent / "data")
    parts = config.splits or _EASY_PARTS
    there = [
        part for part in {*_EASY_PARTS, *parts} if os.path.isfile(f"{folder}/{part}/questions.json")
    ]
    require_splits(config, there)
    storage = Storage()
    contents = {part: storage.read_all(f"{folder}/{part}/questions.json") for part in parts}
    entries: list[Entry | DataError] = []
    for part, content in contents.items():
        path, seen = f"{folder}/{part}/questions.json", Counter[int]()
        entries += [
            _easy_vqa_entry(row, part, seen, f"question {index} of {path}")
            for index, row in enumerate(parse_json(content, path, list))
        ]
    return AnnotatedSource(
        entries, images=folder, fingerprint=fingerprint_of(contents.values(), config)
    )


def _easy_vqa_entry(row: Any, part: str, seen: Counter[int], origin: str) -> Entry | DataError:
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


DAQUAR, EASY_VQA = SourceKind(AnnotationsConfig, daquar), SourceKind(EasyVQAConfig, easy_vqa)
