import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from coca.core.config.frozen_config import load_config
from coca.core.errors import ConfigError
from coca.inference.loading import load
from coca.processing.word_vectors import WordVectors
from coca.workflows.training.pretrain import PretrainConfig, pretrain
from tiny_workflows import NAMES, RECIPE, recipe, stopping_at, write_squares

SYNONYMS = {"crimson": "red", "emerald": "green", "azure": "blue", "golden": "yellow"}
WORDS = ("square", *SYNONYMS.values(), *SYNONYMS)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "pictures")


@pytest.fixture
def changes(tmp_path: Path) -> tuple[str, ...]:
    """Word vectors in which each synonym is close to a colour of the captions."""
    generator = np.random.default_rng(0)
    vectors = {word: generator.normal(size=12) for word in ("square", *SYNONYMS.values())}
    for synonym, word in SYNONYMS.items():
        vectors[synonym] = vectors[word] + 0.1 * generator.normal(size=12)
    path = tmp_path / "vectors.safetensors"
    rows = np.array([vectors[word] for word in WORDS], dtype=np.float32)
    WordVectors(WORDS, rows).save(path)
    count = len(WORDS)
    return (f"word_vectors={path}", f"tokenizer.words={path}", f"tokenizer.word_count={count}")


def test_words_of_no_caption_find_their_images(
    image_folder: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    longer = ("train.steps=150", "data.loader.batch_size=12")
    result = pretrain(recipe(image_folder, tmp_path / "run", *changes, *longer))
    predictor = load(result.model)
    names = [f"{synonym} square" for synonym in SYNONYMS]
    images = [image_folder / f"{number}.png" for number in range(4)]
    found = predictor.classify(images, names)
    assert [predictions[0].label for predictions in found] == names
    # What is generated are words of captions.
    assert [caption.text for caption in predictor.caption(images)] == list(NAMES)


def test_a_finished_model_has_one_plain_table(
    image_folder: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    plain, mapped = (
        pretrain(recipe(image_folder, tmp_path / name, *more)).model
        for name, more in (("plain", changes[1:]), ("mapped", changes))
    )
    shapes = [
        {name: tensor.shape for name, tensor in load_file(it / "model.safetensors").items()}
        for it in (plain, mapped)
    ]
    assert shapes[0] == shapes[1]
    configs = [json.loads((it / "config.json").read_text()) for it in (plain, mapped)]
    assert configs[0] == configs[1]


def test_a_resumed_run_equals_the_run_in_one(
    image_folder: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    changes = (*changes, "train.ema.decay=0.9", "model.text.tie_embeddings=true")
    whole = pretrain(recipe(image_folder, tmp_path / "whole", *changes))
    pretrain(recipe(image_folder, tmp_path / "parts", *changes), progress=stopping_at(7))
    parts = pretrain(recipe(image_folder, tmp_path / "parts", *changes))
    one, other = (load_file(it.model / "model.safetensors") for it in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_second_stage_keeps_the_map(
    image_folder: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    first = pretrain(recipe(image_folder, tmp_path / "first", *changes))
    # Steps so small that they change nothing.
    still = ("train.optimizer.lr=1e-12", "tokenizer.words=null", f"init_from={first.run}")
    second = pretrain(recipe(image_folder, tmp_path / "second", *changes, *still))
    one, other = (load_file(it.model / "model.safetensors") for it in (first, second))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)
    kept = load(first.model).processor.tokenizer
    assert load(second.model).processor.tokenizer.encode_prompt("azure") == kept.encode_prompt(
        "azure"
    )


def test_a_run_keeps_its_vectors(
    image_folder: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    pretrain(recipe(image_folder, tmp_path / "run", *changes), progress=stopping_at(7))
    with pytest.raises(ConfigError, match="was started with word_vectors"):
        pretrain(recipe(image_folder, tmp_path / "run", *changes[1:]))


def test_vectors_of_no_known_word_are_refused(image_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "vectors.safetensors"
    WordVectors(("zebra",), np.ones((1, 4), dtype=np.float32)).save(path)
    with pytest.raises(ConfigError, match="has a vector for none of the tokenizer's words"):
        pretrain(recipe(image_folder, tmp_path / "run", f"word_vectors={path}"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (("word_vectors=v", "init_from=a", "lora={}"), "without lora"),
        (("word_vectors=v", "train.parallel=fsdp"), "on one process or by ddp"),
        (("tokenizer.words=v", "tokenizer.kind=unigram"), "words need a tokenizer of kind bpe"),
        (("tokenizer.word_count=0",), "word_count must be a whole number above 0, got 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(PretrainConfig, RECIPE, overrides=["run=r", "data.sources.0.path=p", *changes])
