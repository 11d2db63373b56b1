"""Questions about images as VQA v2 publishes them, a format that OK-VQA shares: two JSON files.

    {"data_type": "mscoco", "data_subtype": "val2014",
     "questions": [{"question_id": 262148000, "image_id": 262148, "question": "Where ...?"}, ...]}
    {"annotations": [{"question_id": 262148000, "question_type": "where", "answer_type": "other",
                      "answers": [{"answer_id": 1, "answer": "down"}, ... ten of them]}, ...]}

The second is absent where answers are kept secret, as those of `test2015`.
"""

from collections.abc import Mapping
from sys import intern
from typing import Any

from coca.core.errors import ConfigError, DataError
from coca.data.sources.annotated import (
    AnnotatedSource,
    Entry,
    fingerprint_of,
    image_folder,
    list_in,
    malformed,
    parse_json,
)
from coca.data.sources.base import SOURCES, SourceConfig, reads
from coca.data.storage.storage import Storage

_SHARED_PICTURES = {"test-dev2015": "test2015"}
"""Part of the questions -> the part whose images it asks about."""


@SOURCES.register("vqa")
@reads("images")
def vqa(config: SourceConfig) -> AnnotatedSource:
    """Each question with the answers of all people, in the order of the questions.

    `config.path` lists the file of the questions and that of the annotations; `config.images` is
    the folder of the images, such as COCO's `val2014`. The key is the number of the question;
    `question_type` and `answer_type` become metadata. A question that nobody answered, an answer
    to no question, or a malformed one is a bad sample.

    Raises:
        DataError: A file or the folder is missing, or there is no list of questions.
        ConfigError: `config.path` is none or more than one of either file.
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
            f"of {', '.join(config.paths)} {len(asked)} hold questions; right is a path to the "
            "questions, and one to the annotations if there are any"
        )
    faults: list[Entry | DataError] = []
    notes = _notes(answered[0], config.title, faults) if answered else None
    name = _picture_name(asked[0])
    entries: list[Entry | DataError] = [
        _entry(question, notes, name, f"question {place} of {config.title}")
        for place, question in enumerate(list_in(asked[0], "questions", config.title))
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


def _notes(
    annotations: Mapping[str, Any], title: str, faults: list[Entry | DataError]
) -> dict[int, tuple[tuple[str, ...], dict[str, str]]]:
    """Answers and what kind of question it is, by question."""
    found = {}
    for place, note in enumerate(list_in(annotations, "annotations", title)):
        try:
            # The same few texts millions of times: kept once each.
            answers = tuple(intern(str(given["answer"])) for given in note["answers"])
            kinds = {
                kind: intern(str(note[kind]))
                for kind in ("question_type", "answer_type")
                if kind in note
            }
            found[note["question_id"]] = (answers, kinds)
        except (KeyError, TypeError) as error:
            right = "an object with question_id, and answers that each have an answer"
            faults.append(malformed(f"annotation {place} of {title}", error, right))
    return found


def _entry(
    question: Any,
    notes: dict[int, tuple[tuple[str, ...], dict[str, str]]] | None,
    name: str,
    origin: str,
) -> Entry | DataError:
    """The question with its answers, which are taken out of `notes`."""
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


def _picture_name(asked: Mapping[str, Any]) -> str:
    """How the file of an image is called, with a place for its number."""
    part = str(asked.get("data_subtype", ""))
    part = _SHARED_PICTURES.get(part, part)
    kind = str(asked.get("data_type", "mscoco"))
    head, suffix = ("COCO", "jpg") if kind == "mscoco" else (kind, "png")
    named = f"{head}_{part}".replace("{", "{{").replace("}", "}}")
    return f"{named}_{{:012d}}.{suffix}"
