"""What words of sure and of ruled-out classes add to the score of a caption."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ModelError
from coca.processing.class_words import (
    BONUS,
    DOUBT,
    PENALTY,
    ClassNoun,
    ClassWords,
    SeenNouns,
    load_nouns,
    plural,
    save_nouns,
)

LETTERS = "abcdefg"
"""A word of the model is a letter, with id 4 and above; other tokens follow."""
NOUNS = (
    ClassNoun(("a", "c d"), (0, 1)),
    ClassNoun(("b", "c e", "d"), (2,)),
    ClassNoun(("f",)),
    ClassNoun(("c d e",), (3,)),
)


def encode(text: str, count: int) -> list[int]:
    return [4 + LETTERS.index(letter) for letter in text if letter != " "][:count]


WORDS = ClassWords(NOUNS, LETTERS, encode=encode)


def total(ids: list[int], probabilities: list[float]) -> float:
    """Sum what the tokens of a caption gain, its end included."""
    guide = WORDS.guide(np.array([probabilities]), width=20)
    if guide is None:
        return 0.0
    prefixes = [np.array(ids[:end], np.int64)[None, None] for end in range(len(ids) + 1)]
    return float(
        sum(
            guide.adjustments(prefix)[0, 0, token]
            for prefix, token in zip(prefixes, [*ids, 2], strict=True)
        )
    )


def by_definition(text: str, wanted: set[str], ruled_out: set[str], doubted: set[str]) -> float:
    costs = 0.0
    for end in range(1, len(text) + 1):
        pays_doubts_only = any(word in text[: end - 1] for word in (*wanted, "f"))
        if any(text[:end].endswith(word) for word in ruled_out) and not pays_doubts_only:
            costs += PENALTY
        elif any(text[:end].endswith(word) for word in doubted):
            costs += DOUBT
    return BONUS * any(word in text for word in wanted) - costs


@given(text=st.text(LETTERS, max_size=9))
@pytest.mark.parametrize(
    ("probabilities", "wanted", "ruled_out", "doubted"),
    [
        ([0.3, 0.3, 0.4, 0.0], {"a", "cd"}, {"cde"}, {"cde"}),
        ([0.0, 0.01, 0.9, 0.0], {"b", "ce", "d"}, {"a", "cd", "cde"}, {"a", "cd", "cde"}),
        ([0.03, 0.0, 0.37, 0.6], {"cde"}, set(), {"a", "cd"}),
        ([0.3, 0.1, 0.3, 0.3], set(), set(), set()),
        ([0.3, 0.3, 0.0, 0.4], {"a", "cd"}, {"b", "ce", "d"}, {"b", "ce", "d"}),
        ([0.0, 0.0, 0.4, 0.4], set(), set(), {"a", "cd"}),
    ],
)
def test_a_sure_word_gains_once_and_improbable_words_cost(
    probabilities: list[float],
    wanted: set[str],
    ruled_out: set[str],
    doubted: set[str],
    text: str,
) -> None:
    expected = by_definition(text, wanted, ruled_out, doubted)
    assert total(encode(text, len(text)), probabilities) == pytest.approx(expected)


def test_kept_images_gain_as_before_and_unsure_ones_nothing() -> None:
    probabilities = np.array([[0.9, 0, 0, 0], [0.25] * 4, [0, 0, 0.9, 0]])
    guide = WORDS.guide(probabilities, width=20)
    assert guide is not None
    whole = guide.adjustments(np.full((3, 2, 1), 6))
    assert not whole[1].any()
    guide.keep([1, 2])
    np.testing.assert_array_equal(guide.adjustments(np.full((2, 2, 1), 6)), whole[1:])


def test_nouns_are_loaded_as_saved_and_other_files_refused(tmp_path: Path) -> None:
    path = tmp_path / "class_words.json"
    assert load_nouns(path) == ()
    save_nouns(NOUNS, path)
    assert load_nouns(path) == NOUNS
    path.write_text('[{"words": ["a"]}]')
    with pytest.raises(ModelError, match=r"class_words\.json is not a list of nouns"):
        load_nouns(path)


def test_images_have_the_nouns_whose_classes_are_likely_together() -> None:
    nouns = SeenNouns([*NOUNS, ClassNoun(("g", "a"), (3,))])
    probabilities = np.array([[0.2, 0.35, 0.06, 0.39], [0.02, 0.04, 0.94, 0.0], [0.25] * 4])
    assert nouns.of(probabilities) == [
        {"a": 94, "c d": 55, "c d e": 39, "g": 39},
        {"b": 94, "c e": 94, "d": 94},
        {"a": 75, "c d": 50, "b": 25, "c e": 25, "d": 25, "c d e": 25, "g": 25},
    ]
    assert SeenNouns([ClassNoun(("f",))]).of(probabilities) == [{}, {}, {}]
    # Rounded sums may exceed 1.
    assert SeenNouns(NOUNS[:1]).of(np.array([[0.6, 0.4001]])) == [{"a": 100, "c d": 100}]


def test_plurals_are_regular() -> None:
    assert [plural(word) for word in ("dog", "fox", "finch", "daisy", "jay")] == [
        *("dogs", "foxes", "finches", "daisies", "jays")
    ]
