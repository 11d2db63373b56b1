import logging
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.search.query.hybrid.bm25_index import BM25Index, coverage, split_words

WORDS = ["red", "car", "blue", "sky", "dog", "the", "a", "of", "snow"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), max_size=12)


def bm25_by_hand(texts: list[str], query: str) -> list[float]:
    """Compute BM25 in Lucene's form of Robertson's formula."""
    split = [text.split() for text in texts]
    mean = sum(map(len, split)) / max(len(split), 1)
    scores = [0.0] * len(texts)
    for word in query.split():
        holders = sum(word in words for words in split)
        rarity = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5))
        for row, words in enumerate(split):
            if count := Counter(words)[word]:
                length = 1.2 * (1 - 0.75 + 0.75 * len(words) / mean)
                scores[row] += rarity * count / (count + length)
    return scores


@given(TEXTS, st.lists(st.sampled_from(["red", "car", "the", "zebra"]), max_size=4).map(" ".join))
def test_scores_are_those_of_the_formula(texts: list[str], query: str) -> None:
    assert BM25Index(texts).scores(query).tolist() == pytest.approx(
        bm25_by_hand(texts, query), abs=1e-5
    )


def test_case_and_the_form_of_letters_make_no_difference() -> None:
    assert split_words("A Red-CAR, naïve; Straße 12") == [
        "a",
        "red",
        "car",
        "naïve",
        "strasse",
        "12",
    ]
    texts = ["Ein Caf\u00e9", "two dogs"]
    assert BM25Index(texts).scores("CAFE\u0301").argmax() == 0


def test_texts_without_words_and_queries_without_words_score_0() -> None:
    for texts in ([], [""], ["", "!?"], ["", "a dog"]):
        assert BM25Index(texts).scores("cat ?").tolist() == [0] * len(texts)
        assert BM25Index(texts).scores("").tolist() == [0] * len(texts)


def test_building_an_index_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        BM25Index(["a red car", "a frog"])
    assert caplog.records == []


def test_the_fraction_of_words_that_a_text_has() -> None:
    red_cars = [("red",), ("Cars", "car")]
    assert coverage(red_cars, "A red CAR, and cars") == 1.0
    assert coverage(red_cars, "police car") == coverage(red_cars, "red") == 0.5
    assert coverage(red_cars, "carpet") == 0.0
    # A word of two parts needs both; punctuation alone is no word.
    assert coverage([("t-shirt",), ("&",)], "a shirt") == 0.0
    assert coverage([("t-shirt",), ("&",)], "shirt, t") == 1.0
    assert coverage([("?",)], "cat") == coverage([], "cat") == 1.0
