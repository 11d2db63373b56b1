import json
from pathlib import Path

import numpy as np

from translated_words import read_pairs, translated
from word_vectors import WordVectors

ROWS = [
    {"en": ["A dog runs.", "the brown dog"], "de": ["Ein Hund rennt.", "der braune Hund"]},
    {"en": ["A dog sleeps."], "de": ["Ein Hund schläft."]},
    {"en": ["A cat sleeps."], "de": ["Eine Katze schläft."]},
    {"en": ["A cat runs."], "de": ["Eine Katze rennt."]},
]
ENGLISH = ("a", "the", "dog", "cat", "runs", "sleeps", "brown", "ein")


def test_a_word_is_nearest_to_its_translation_and_english_words_keep_theirs(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    known = WordVectors(ENGLISH, np.eye(len(ENGLISH), dtype=np.float32))
    both = translated(known, read_pairs(pairs, "de"), 20)
    row_of = {word: row for row, word in enumerate(both.words)}
    for german, english in [("hund", "dog"), ("katze", "cat"), ("schläft", "sleeps")]:
        assert ENGLISH[int(both.vectors[row_of[german]][: len(ENGLISH)].argmax())] == english
    # "ein" is a word of the captions in German only, although the list contains it.
    assert len(row_of) == len(both.words)
    assert row_of["ein"] > row_of["brown"]
    for word in ENGLISH[:-1]:
        assert np.array_equal(both.vectors[row_of[word]], known.vectors[ENGLISH.index(word)])
