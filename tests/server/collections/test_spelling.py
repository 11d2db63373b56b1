"""Corrections of queries: which typing errors have one, and which words do not."""

from collections import Counter

import pytest

from coca.server.collections.spelling import corrected, words_of

CAPTIONS = (
    "a dog on the beach, a brown dog in the grass, a horse near a waterfall, "
    "two hands, an elephant, the Eiffel tower"
)
WORDS = Counter(words_of(CAPTIONS))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("dgo", "dog"), ("a Dgo at the baech", "a dog at the beach"), ("doog", "dog")),
        *(("waterfal dog", None), ("watrfall", "waterfall"), ("elephsnt", "elephant")),
        # A plural, a word that is being typed, one of another language, and no word.
        *(("dogs", None), ("hors", None), ("Hund", None), ("dug", None), ("IMG_2041", None)),
        *(("", None), ("dog", None)),
    ],
)
def test_one_typing_error_is_corrected(text: str, expected: str | None) -> None:
    assert corrected(text, WORDS) == expected


def test_the_more_frequent_of_two_neighbours_is_taken() -> None:
    assert corrected("baot", {"boat": 1, "bato": 3}) == "bato"
