import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.inference.predictor import Predictor
from coca.metrics.intervals import mean_interval
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.retrieval.synonyms import CAPTIONS_PER_PAIR, read_pairs
from tiny_data import image_bytes
from tiny_datasets import write_folder

SYNONYMS = TASKS.get("synonyms")
TEXTS = ("a dog on grass", "a red car", "Dogs and a dog", "the old car, parked", "a hotdog stand")
SAMPLES = [
    Sample(f"s{number:02d}", image_bytes(number), captions=(f"{text} {number}",))
    for number, text in enumerate(TEXTS * 3)
]


@pytest.fixture
def listed(tmp_path: Path) -> str:
    path = tmp_path / "listed.yaml"
    path.write_text("dog: [hound, pooch]\ncar: [automobile]\nzebra: [horse]\n", encoding="utf-8")
    return str(path)


def config_of(root: Path, listed: str, **settings: Any) -> TaskConfig:
    config = TaskConfig(task="synonyms", data=write_folder(root / "data", SAMPLES))
    return dataclasses.replace(config, synonyms=listed, **settings)


def solve(predictor: Predictor, root: Path, listed: str, **settings: Any) -> TaskResult:
    return SYNONYMS(predictor, config_of(root, listed, **settings))


def test_scores_equal_a_search_by_hand(predictor: Predictor, tmp_path: Path, listed: str) -> None:
    result = solve(predictor, tmp_path, listed)
    metrics = result.metrics
    images = predictor.embed_images([sample.image for sample in SAMPLES])

    def rank(text: str, owners: set[int]) -> int:
        scores = images @ predictor.embed_texts(text)[0]
        order = sorted(range(len(SAMPLES)), key=lambda row: (-float(scores[row]), row))
        return min(order.index(row) for row in owners) + 1

    each, alone, without = [], [], []
    for word, synonym in (("dog", "hound"), ("dog", "pooch"), ("car", "automobile")):
        # "Dogs" and "hotdog" do not contain the word "dog".
        rows = {row for row in range(15) if f" {word}" in TEXTS[row % 5]}
        texts = [(row, SAMPLES[row].captions[0].replace(f" {word}", f" {synonym}")) for row in rows]
        each.append(sum(rank(text, {row}) <= 5 for row, text in texts) / len(texts))
        alone.append(rank(synonym, rows) <= 5)
        texts = [(row, SAMPLES[row].captions[0].replace(f" {word}", " ")) for row in rows]
        without.append(sum(rank(text, {row}) <= 5 for row, text in texts) / len(texts))
    assert metrics["without_synonym_recall@5"] == pytest.approx(sum(without) / 3)
    assert metrics["synonym_recall@5"] == pytest.approx(sum(each) / 3)
    # Synonyms are the sample, and not their captions.
    assert result.intervals["synonym_recall@5"] == pytest.approx(mean_interval(np.array(each)))
    assert metrics["alone_recall@5"] == pytest.approx(sum(alone) / 3)
    assert metrics["chance_synonym_recall@5"] == pytest.approx(5 / 15)
    assert metrics["pairs"] == 3


def test_synonyms_of_the_training_data_are_left_out(
    predictor: Predictor, tmp_path: Path, listed: str
) -> None:
    training = [
        Sample("a", image_bytes(0), captions=("My Pooch.",)),
        Sample("b", image_bytes(1), captions=("a",), labels=("automobile",)),
    ]
    reference = write_folder(tmp_path / "training", training)
    result = solve(predictor, tmp_path, listed, reference=reference)
    assert result.metrics["pairs"] == 1
    assert [pair["synonym"] for pair in result.details["pairs"]] == ["hound"]
    assert "pooch" in result.details["left_out"]


def test_a_synonym_within_a_label_a_possessive_or_of_two_words_is_known_from_training(
    predictor: Predictor, tmp_path: Path
) -> None:
    listed = tmp_path / "more.yaml"
    listed.write_text("dog: [hound, pooch, furry friend, mutt]\n", encoding="utf-8")
    training = [
        Sample("a", image_bytes(0), captions=("The pooch's ball", "My Furry Friend")),
        Sample("b", image_bytes(1), captions=("a",), labels=("old_hound",)),
    ]
    reference = write_folder(tmp_path / "training", training)
    result = solve(predictor, tmp_path, str(listed), reference=reference)
    assert result.details["left_out"] == ["furry friend", "hound", "pooch"]
    assert [pair["synonym"] for pair in result.details["pairs"]] == ["mutt"]


def test_frequent_words_do_not_outweigh_others(
    predictor: Predictor, tmp_path: Path, listed: str
) -> None:
    many = [
        Sample(f"m{number:02d}", image_bytes(number), captions=(f"dog {number}",))
        for number in range(CAPTIONS_PER_PAIR + 5)
    ]
    config = config_of(tmp_path, listed, reference=None)
    config = dataclasses.replace(config, data=write_folder(tmp_path / "many", many))
    counts = [pair["captions"] for pair in SYNONYMS(predictor, config).details["pairs"]]
    assert max(counts) <= CAPTIONS_PER_PAIR


def test_data_without_any_word_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    path.write_text("zebra: [horse]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"contains a word with an unseen synonym \(0 of 1 syn"):
        solve(predictor, tmp_path, str(path))


@pytest.mark.parametrize("content", ["dog: hound", "- dog", "dog: [1]", "dog: [", ""])
def test_a_list_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"synonyms .* (must map each word|cannot be read)"):
        read_pairs(str(path))


def test_the_list_of_the_package_has_distinct_pairs() -> None:
    pairs = read_pairs("")
    assert len(pairs) > 150
    assert len({*pairs}) == len(pairs)
    assert all(pair.word != pair.synonym and " " not in pair.synonym for pair in pairs)
