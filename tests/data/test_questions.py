"""Questions and statements are read from the files as they are published."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.data.sources.annotated import AnnotationsConfig
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source, SourceConfig
from tiny_data import image_bytes
from tiny_datasets import (
    lines,
    write_nlvr2,
    write_snli_ve,
    write_vqa,
)

WRITERS: list[Callable[[Path], SourceConfig]] = [
    write_vqa,
    write_snli_ve,
    write_nlvr2,
]


def everything(source: Source) -> list[Sample | DataError]:
    found: list[Sample | DataError] = []
    for row in range(len(source)):
        try:
            found.append(source.read(row))
        except DataError as error:
            found.append(error)
    return found


def faults(source: Source) -> list[tuple[str, str]]:
    return [(it.reason, str(it)) for it in everything(source) if isinstance(it, DataError)]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_texts_without_reading_images(
    tmp_path: Path, write: Callable[[Path], SourceConfig]
) -> None:
    source = open_source(write(tmp_path))
    samples = [source.read(row) for row in range(len(source))]
    assert len({sample.key for sample in samples}) == len(samples)
    for row, sample in enumerate(samples):
        assert source.key(row) == sample.key
        assert sample.text
        assert sample.answers or sample.labels
        assert source.read_metadata(row) == replace(sample, image=b"", others=())
    assert everything(pickle.loads(pickle.dumps(source))) == samples


@pytest.mark.parametrize("write", WRITERS)
def test_a_missing_image_is_one_bad_sample(
    tmp_path: Path, write: Callable[[Path], SourceConfig]
) -> None:
    config = write(tmp_path)
    gone = sorted([*tmp_path.rglob("*.jpg"), *tmp_path.rglob("*.png")])[-1]
    gone.unlink()
    reported = faults(open_source(config))
    assert reported
    assert all(reason == "missing" and gone.name in text for reason, text in reported)


def test_a_question_of_vqa_has_the_answers_of_ten_people(tmp_path: Path) -> None:
    sample = open_source(write_vqa(tmp_path)).read(3)
    assert (sample.key, sample.text, sample.image) == (
        "3",
        "what is 3?",
        image_bytes(1, form="JPEG"),
    )
    assert sample.answers == ("2",) * 7 + ("maybe", "two dogs", "a red one")
    assert sample.metadata["answer_type"] == "other"


def test_an_image_of_vqa_without_a_whole_number_is_a_bad_sample(tmp_path: Path) -> None:
    asked = {
        "data_subtype": "{odd}",
        "questions": [
            {"question_id": 1, "image_id": float("inf"), "question": "why?"},
            {"question_id": 2, "image_id": 3, "question": "who?"},
        ],
    }
    (tmp_path / "q.json").write_text(json.dumps(asked))
    first, second = everything(
        open_source(AnnotationsConfig(kind="vqa", path=str(tmp_path / "q.json")))
    )
    assert "question 0 of" in str(first)
    assert "COCO_{odd}_000000000003.jpg is missing" in str(second)


def test_missing_parts_of_vqa_are_reported_by_question(tmp_path: Path) -> None:
    config = write_vqa(tmp_path)
    files: list[dict[str, Any]] = [json.loads(Path(path).read_text()) for path in config.paths]
    files[0]["questions"] += [{"question_id": 70}, "x"]
    files[0]["questions"].append({"question_id": 71, "image_id": 0, "question": "why?"})
    files[1]["annotations"] += [{"question_id": 72, "answers": [{"answer": "a"}]}, {"answers": []}]
    for path, content in zip(config.paths, files, strict=True):
        Path(path).write_text(json.dumps(content))
    source = open_source(config)
    assert len(source) == 8 + 5
    wanted = ["question 8", "question 9", "question 10", "annotation 9", "question 72"]
    reported = faults(source)
    assert len(reported) == len(wanted)
    assert all(what in text for what, (_, text) in zip(wanted, reported, strict=True))
    assert reported[2][0] == "no_answer"


@pytest.mark.parametrize(("paths", "count"), [((1,), 0), ((0, 0), 2), ((0, 1, 1), 1)])
def test_vqa_needs_one_file_of_questions(
    tmp_path: Path, paths: tuple[int, ...], count: int
) -> None:
    config = write_vqa(tmp_path)
    named = tuple(config.paths[index] for index in paths)
    with pytest.raises(ConfigError, match=f"must contain questions, got {count}"):
        open_source(config.replace(path=named))


def test_a_hypothesis_has_a_verdict_and_leaves_its_premise_aside(tmp_path: Path) -> None:
    sample = open_source(write_snli_ve(tmp_path)).read(1)
    assert (sample.text, sample.labels) == ("Hypothesis 1.", ("neutral",))
    assert sample.metadata["premise"] == "A premise."
    assert sample.captions == ()


UNDECIDED = {"Flickr30K_ID": "1000", "sentence2": "So.", "gold_label": "-"}
STATEMENTS = [
    {"identifier": "train-1-0-0", "sentence": "So.", "label": "perhaps", "directory": 0},
    {"identifier": "train-1-0-0", "label": "true"},
    {"identifier": 5, "sentence": "So.", "label": "true"},
    ["no", "object"],
]
BAD = "bad_record"


@pytest.mark.parametrize(
    ("write", "rows", "reasons", "named"),
    [
        (write_snli_ve, ["", UNDECIDED, {}, "{oops"], ["unknown_label", BAD, BAD], "line 10"),
        (write_nlvr2, STATEMENTS[::-1], [BAD] * 4, "perhaps"),
    ],
)
def test_lines_that_are_no_questions_are_bad_samples(
    tmp_path: Path,
    write: Callable[[Path], SourceConfig],
    rows: list[Any],
    reasons: list[str],
    named: str,
) -> None:
    config = write(tmp_path)
    path = Path(str(config.path))
    path.write_text(path.read_text() + lines(rows))
    reported = faults(open_source(config))
    assert [reason for reason, _ in reported] == reasons
    assert named in reported[-1][1]


@pytest.mark.parametrize("numbered", [True, False])
def test_a_statement_of_nlvr2_has_its_photos_in_order(tmp_path: Path, numbered: bool) -> None:
    samples = everything(open_source(write_nlvr2(tmp_path, numbered=numbered)))
    last = samples[-1]
    assert isinstance(last, Sample)
    assert last.images == (image_bytes(14), image_bytes(15, form="JPEG"))
    assert (last.text, last.labels) == ("Sentence 3 is so.", ("true",))
    groups = [sample.metadata["group"] for sample in samples if isinstance(sample, Sample)]
    assert groups == [f"train-{n // 2}-0" for n in range(8)]


def test_a_folder_of_images_that_is_not_there_is_reported_before_any_work(tmp_path: Path) -> None:
    for number, write in enumerate(WRITERS):
        config = write(tmp_path / str(number))
        assert isinstance(config, AnnotationsConfig)
        with pytest.raises(DataError, match="nowhere, is missing"):
            open_source(config.replace(images=str(tmp_path / "nowhere")))
