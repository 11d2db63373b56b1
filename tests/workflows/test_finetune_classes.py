"""Which classes and answers a head gets from the data."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from coca.core.errors import ConfigError, DataError
from coca.data.sources.factory import open_source
from coca.data.sources.table_source import ManifestConfig
from coca.workflows.training.finetune import HeadChoice, find_classes
from coca.workflows.training.pretrain_data import Sources


def table(folder: Path, answers: Sequence[Sequence[str]]) -> Sources:
    path = folder / "questions.jsonl"
    rows = [{"image": "a.png", "question": "what?", "answers": list(given)} for given in answers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ManifestConfig(path=str(path))
    return [(config, open_source(config))]


def test_answers_are_counted_as_they_are_normalised_and_by_person(tmp_path: Path) -> None:
    sources = table(tmp_path, [["Two dogs", "2 dogs.", "cat"], ["the", "a cat", "bird"]])
    assert find_classes(sources, by_answers=True) == ["2 dogs", "bird", "cat"]
    assert find_classes(sources, by_answers=True, at_least=2) == ["2 dogs", "cat"]
    assert find_classes(sources, by_answers=True, most_frequent=2) == ["2 dogs", "cat"]


def test_too_rare_answers_leave_no_head(tmp_path: Path) -> None:
    sources = table(tmp_path, [["yes", "yes"], ["no"]])
    with pytest.raises(DataError, match="1 of 2 classes occur at least 2 times"):
        find_classes(sources, by_answers=True, at_least=2)


def test_a_choice_among_named_classes_is_no_choice() -> None:
    with pytest.raises(ConfigError, match=r"at_least must be .* got 3"):
        HeadChoice(classes=("a", "b"), at_least=3)
    with pytest.raises(ConfigError, match=r"at_least must be .* got 0"):
        HeadChoice(at_least=0)
