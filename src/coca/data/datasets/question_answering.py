"""Visual question answering: VQA v2 and OK-VQA.

The format is a JSON file of questions and one of annotations.

    {"data_type": "mscoco", "data_subtype": "val2014",
     "questions": [{"question_id": 262148000, "image_id": 262148, "question": "Where ...?"}, ...]}
    {"annotations": [{"question_id": 262148000, "question_type": "where", "answer_type": "other",
                      "answers": [{"answer_id": 1, "answer": "down"}, ... ten of them]}, ...]}

The second is absent where answers are not published, such as for `test2015`.
"""

from collections.abc import Mapping
from sys import intern
from typing import Any

from coca.core.errors import ConfigError, DataError
from coca.data.sources.annotated import (
    AnnotatedSample,
    AnnotatedSource,
    AnnotationsConfig,
    fingerprint_of,
    image_folder,
    list_in,
    malformed,
    parse_json,
)
from coca.data.sources.source import register_source
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
    faults: list[AnnotatedSample | DataError] = []
    notes = _vqa_notes(answered[0], config.title, faults) if answered else None
    name = _vqa_image_name(asked[0])
    entries: list[AnnotatedSample | DataError] = [
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
    annotations: Mapping[str, Any], title: str, faults: list[AnnotatedSample | DataError]
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
) -> AnnotatedSample | DataError:
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
        return AnnotatedSample(str(number), file, (), (), metadata, text.strip(), answers)
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
