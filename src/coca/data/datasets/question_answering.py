"""Visual question answering: VQA v2, DAQUAR and easy-VQA.

VQA v2 format, also of OK-VQA: a JSON file of questions and one of annotations.

    {"data_type": "mscoco", "data_subtype": "val2014",
     "questions": [{"question_id": 262148000, "image_id": 262148, "question": "Where ...?"}, ...]}
    {"annotations": [{"question_id": 262148000, "question_type": "where", "answer_type": "other",
                      "answers": [{"answer_id": 1, "answer": "down"}, ... ten of them]}, ...]}

The second is absent where answers are not published, such as for `test2015`.

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
from collections.abc import Mapping
from pathlib import Path
from sys import intern
from typing import Any

from coca.core.annotations import parse_text
from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.data.sources.annotated import (
    AnnotatedSource,
    AnnotationsConfig,
    Entry,
    fingerprint_of,
    image_folder,
    list_in,
    malformed,
    parse_json,
    require_splits,
)
from coca.data.sources.source import SplitConfig, register_source, single_path
from coca.data.storage.storage import Storage

_IMAGE_SUBTYPES = {"test-dev2015": "test2015"}
"""Question split -> split of its images."""


@register_source("vqa", AnnotationsConfig)
def vqa(config: AnnotationsConfig) -> AnnotatedSource:
    """Read each question with the answers of all annotators, in the order of the questions.

    `config.path` lists the question file and the annotation file; `config.images` is the image
    folder, such as COCO's `val2014`. The key is the question id; `question_type` and `answer_type`
    become metadata. A malformed question, one without answers, and answers without a question are
    bad samples.
    """
    storage = Storage()
    contents = [storage.read_all(path) for path in config.paths]
    files = [
        parse_json(content, path, dict)
        for content, path in zip(contents, config.paths, strict=True)
    ]
    asked = [file for file in files if "questions" in file]
    answered = [file for file in files if "questions" not in file]
    if len(asked) != 1 or len(answered) > 1:
        raise ConfigError(
            f"one of {', '.join(config.paths)} must contain questions, got {len(asked)}; give one "
            "path to the questions, and one to the annotations if there are any"
        )
    faults: list[Entry | DataError] = []
    notes = _vqa_notes(answered[0], config.title, faults) if answered else None
    name = _vqa_image_name(asked[0])
    entries: list[Entry | DataError] = [
        _vqa_entry(question, notes, name, f"question {index} of {config.title}")
        for index, question in enumerate(list_in(asked[0], "questions", config.title))
    ]
    faults += [
        DataError(
            f"{config.title} has answers to question {number}, which is not asked",
            reason="bad_record",
        )
        for number in notes or ()
    ]
    return AnnotatedSource(
        entries + faults,
        images=image_folder(config),
        fingerprint=fingerprint_of(contents, config),
    )


def _vqa_notes(
    annotations: Mapping[str, Any], title: str, faults: list[Entry | DataError]
) -> dict[int, tuple[tuple[str, ...], dict[str, str]]]:
    """Map question ids to answers and question types."""
    found = {}
    for index, note in enumerate(list_in(annotations, "annotations", title)):
        try:
            # The same few strings occur millions of times, so intern them.
            answers = tuple(intern(str(given["answer"])) for given in note["answers"])
            kinds = {
                kind: intern(str(note[kind]))
                for kind in ("question_type", "answer_type")
                if kind in note
            }
            found[note["question_id"]] = (answers, kinds)
        except (KeyError, TypeError) as error:
            right = "an object with question_id, and answers that each have an answer"
            faults.append(malformed(f"annotation {index} of {title}", error, right))
    return found


def _vqa_entry(
    question: Any,
    notes: dict[int, tuple[tuple[str, ...], dict[str, str]]] | None,
    name: str,
    origin: str,
) -> Entry | DataError:
    """Build the entry of a question; its answers are removed from `notes`."""
    try:
        number, image, text = question["question_id"], question["image_id"], question["question"]
        file = name.format(int(image))
        metadata = {"question_id": number, "image_id": image}
        answers: tuple[str, ...] = ()
        if notes is not None:
            if number not in notes:
                return DataError(f"{origin} ({number}) has no answers", reason="no_answer")
            answers, kinds = notes.pop(number)
            metadata |= kinds
        return Entry(str(number), file, (), (), metadata, text.strip(), answers)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        return malformed(origin, error, "an object with question_id, image_id and question")


def _vqa_image_name(asked: Mapping[str, Any]) -> str:
    """Return the format string of image file names, with a field for the image id."""
    part = str(asked.get("data_subtype", ""))
    part = _IMAGE_SUBTYPES.get(part, part)
    kind = str(asked.get("data_type", "mscoco"))
    head, suffix = ("COCO", "jpg") if kind == "mscoco" else (kind, "png")
    named = f"{head}_{part}".replace("{", "{{").replace("}", "}}")
    return f"{named}_{{:012d}}.{suffix}"


_DAQUAR_QUESTION = re.compile(
    r"(?P<question>.*?) ?(?:\b(?:in|on|of) (?:the )?)?\b(?P<image>image\d+) ?\?* ?"
)


@register_source("daquar", AnnotationsConfig)
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


@register_source("easy_vqa", EasyVQAConfig)
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
