import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import add_words
from add_words import EMBEDDING
from coca.inference.loading import load

ROWS = [
    {"en": ["A dog runs.", "the brown dog"], "de": ["Ein Hund rennt.", "der braune Hund"]},
    {"en": ["A dog sleeps."], "de": ["Ein Hund schläft."]},
    {"en": ["A cat sleeps."], "de": ["Eine Katze schläft."]},
    {"en": ["A cat runs."], "de": ["Eine Katze rennt."]},
]
ENGLISH = ["a dog sleeps", "two cats", "ein"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    arguments = ["add_words.py", "everyday", str(folder / "words-de"), "--pairs", str(pairs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*arguments, "--language", "de"])
        add_words.main()
    return folder / "words-de"


def test_new_words_are_tokens_and_others_keep_theirs(folder: Path) -> None:
    before, after = (load(name).processor.tokenizer for name in ("everyday", folder))
    assert len(after.encode_prompt("Hund schläft")) == 3
    assert after.encode_prompt("a dog sleeps") == before.encode_prompt("a dog sleeps")


def test_english_vectors_are_unchanged(folder: Path) -> None:
    before, after = (load(name).embed_texts(ENGLISH[:2]) for name in ("everyday", folder))
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_a_word_starts_nearest_to_its_translation(folder: Path) -> None:
    model = load(folder, prepack=False)
    tokenizer = model.processor.tokenizer
    rows = model.model.state_dict()[EMBEDDING]

    def row(word: str) -> torch.Tensor:
        return rows[tokenizer.encode_prompt(word)[-1]]

    names = ["dog", "cat", "runs", "sleeps", "brown", "the"]
    for german, english in [("hund", "dog"), ("katze", "cat")]:
        near = [torch.cosine_similarity(row(german), row(name), dim=0) for name in names]
        assert names[int(np.argmax(near))] == english
