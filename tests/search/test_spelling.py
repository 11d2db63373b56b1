"""Typing errors of words: which words are one error away from another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.search.spelling import is_typing_error, one_error_away

WORDS = st.text("abcdhors", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("typed", "word", "expected"),
    [
        *(("dgo", "dog", True), ("doog", "dog", True), ("watrfall", "waterfall", True)),
        *(("elephsnt", "elephant", True), ("jorgn", "jorgen", True), ("horsse", "horse", True)),
        # Two errors, and the same word.
        *(("dg", "dog", False), ("watrfal", "waterfall", False), ("dog", "dog", False)),
        # The first letter: exchanged, and another one.
        *(("odg", "dog", True), ("fridge", "bridge", False), ("orange", "range", False)),
        # Short words of another language.
        *(("hund", "hand", False), ("dug", "dog", False), ("hors", "horse", False)),
    ],
)
def test_one_error_is_two_letters_exchanged_or_one_letter(
    typed: str, word: str, expected: bool
) -> None:
    assert is_typing_error(typed, word) is expected


@given(WORDS)
def test_words_that_are_listed_are_one_error_away(typed: str) -> None:
    assert all(word == typed or is_typing_error(typed, word) for word in one_error_away(typed))
    assert len(list(one_error_away(typed))) <= 62 * len(typed)


@given(WORDS, WORDS)
def test_words_one_error_away_are_listed_but_for_a_letter_at_the_end(typed: str, word: str) -> None:
    if is_typing_error(typed, word) and word[:-1] != typed:
        assert word in one_error_away(typed)
