"""Tokenizers that the static page cannot run, or that are unsafe in a browser, are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from coca import weights
from coca.core.errors import CocaError
from coca.release.browser.static_page import check_tokenizer

SHIPPED = Path(weights.__file__).parent / "everyday" / "tokenizer.json"
SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": True}
VOCABULARY = [["[PAD]", 0.0], ["[BOS]", 0.0], ["[EOS]", 0.0], ["[CLS]", 0.0], ["a", -1.0]]


def test_the_tokenizer_of_a_shipped_model_is_accepted() -> None:
    check_tokenizer(SHIPPED)


@pytest.mark.parametrize(
    ("section", "part", "reason"),
    [
        ("pre_tokenizer", SPLIT, "may take exponential time"),
        ("pre_tokenizer", {"type": "Whitespace"}, "no pre_tokenizer of the type Whitespace"),
        ("model", {"type": "Unigram", "unk_id": 0, "vocab": VOCABULARY}, "type BPE, got Unigram"),
    ],
)
def test_another_tokenizer_is_refused(tmp_path: Path, section: str, part: Any, reason: str) -> None:
    content = json.loads(SHIPPED.read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**content, section: part}), encoding="utf-8")
    with pytest.raises(CocaError, match=reason):
        check_tokenizer(path)
