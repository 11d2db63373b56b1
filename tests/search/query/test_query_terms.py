"""Query texts: their forms, and terms with weights."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import SearchError
from coca.search.query.query_terms import (
    Term,
    direction,
    embed_queries,
    name_emoji,
    query_forms,
    typed_terms,
)


def embedded(texts: Sequence[str]) -> np.ndarray:
    """Embed texts as vectors of length 1, by the bytes of each."""
    rows = [np.random.default_rng([*text.encode()]).normal(size=8) for text in texts]
    return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


@pytest.mark.parametrize(
    ("typed", "content"),
    [
        ("a dog", "dog"),
        ("The dog.", "dog"),
        ("dog!", "dog"),
        ("a dog runs on the wide beach", "dog runs wide beach"),
        ("t-shirt, and a hat", "t-shirt hat"),
        ("Café de Paris", "Café de Paris"),
    ],
)
def test_a_text_is_embedded_as_typed_and_without_stop_words(typed: str, content: str) -> None:
    assert query_forms(typed) == list(dict.fromkeys([typed, content]))
    (found,) = embed_queries(embedded, [typed])
    mean = embedded(query_forms(typed)).mean(axis=0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), rtol=1e-6)


SINGULARS = (
    "dogs:dog horses:horse houses:house buses:bus boxes:box beaches:beach dishes:dish cars:car "
    "puppies:puppy flies:fly ties:tie cookies:cookie potatoes:potato shoes:shoe toes:toe "
    "tacos:taco kisses:kiss viruses:virus knives:knife gloves:glove women:woman trees:tree"
)
UNCHANGED = (
    "glasses grass tennis bus scissors gas yes red octopus s es news Texas lens Mars species "
    "Mercedes cosmos chaos Athens"
)


@pytest.mark.parametrize("pair", SINGULARS.split())
def test_the_last_word_is_searched_in_the_singular_as_well(pair: str) -> None:
    plural, one = pair.split(":")
    assert query_forms(plural) == [plural, one]
    assert query_forms(f"the red {plural}") == [f"the red {plural}", f"red {plural}", f"red {one}"]
    assert query_forms(f"two big red {plural}") == [f"two big red {plural}"]


@pytest.mark.parametrize("word", UNCHANGED.split())
def test_words_that_only_look_like_plurals_are_unchanged(word: str) -> None:
    assert query_forms(word) == [word]


@pytest.mark.parametrize("typed", ["dog", "", "a", "?", "the", "to be or not to be", "12:30"])
def test_a_text_without_stop_words_or_of_nothing_else_stays_as_typed(typed: str) -> None:
    assert query_forms(typed) == [typed]
    np.testing.assert_array_equal(embed_queries(embedded, [typed]), embedded([typed]))


@pytest.mark.parametrize(
    ("typed", "searched"),
    [
        ("\N{DOG FACE}", "dog face"),
        ("a \N{SOCCER BALL}\N{VARIATION SELECTOR-16}", "a soccer ball"),
        ("\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}", "red heart"),
        ("\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}", "thumbs up sign"),
        ("\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}", "woman rocket"),
        ("a man with a \N{TOP HAT} on the beach", "a man with a top hat on the beach"),
    ],
)
def test_emoji_are_searched_by_name(typed: str, searched: str) -> None:
    assert name_emoji(typed) == searched


@given(st.lists(st.text(alphabet="adogs \n.", max_size=12), min_size=1, max_size=5))
def test_vectors_have_length_1_and_do_not_depend_on_the_other_queries(queries: list[str]) -> None:
    found = embed_queries(embedded, queries)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    alone = np.concatenate([embed_queries(embedded, [query]) for query in queries])
    np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize(
    ("typed", "wanted", "unwanted"),
    [
        ("dog but no grass", "dog", ["grass"]),
        ("photos without people", "photos", ["people"]),
        ("a dog -beach -Snow", "a dog", ["beach", "Snow"]),
        ("a dog that is not running, in the sun", "a dog in the sun", ["running"]),
        ("street with no cars but with people", "street with people", ["cars"]),
        ("beach with no people and no dogs", "beach", ["people", "dogs"]),
        ("Strand ohne Menschen", "Strand", ["Menschen"]),
        ("ein Hund mit keinem Ball", "ein Hund", ["Ball"]),
    ],
)
def test_what_a_typed_text_does_not_want_is_negative(
    typed: str, wanted: str, unwanted: list[str]
) -> None:
    terms = typed_terms(typed, 2.0)
    assert terms == [
        Term(text=wanted, weight=2.0),
        *(Term(text=text, weight=-1.0) for text in unwanted),
    ]


@pytest.mark.parametrize(
    "typed",
    [
        "no smoking",
        "not a dog",
        "do not enter",
        "-dog",
        "t-shirt",
        "12 -5",
        "dog without the",
        "- x",
    ],
)
def test_a_text_of_which_nothing_is_unwanted_stays_as_typed(typed: str) -> None:
    assert typed_terms(typed) == [Term(text=typed)]
    assert typed_terms("dog without grass", -1.0) == [Term(text="dog without grass", weight=-1.0)]


def test_a_term_is_one_thing_with_a_weight() -> None:
    with pytest.raises(SearchError, match="just one of them"):
        Term()
    with pytest.raises(SearchError, match="just one of them"):
        Term(text="x", image="y")
    for weight in (0.0, math.nan, math.inf, -11.0):
        with pytest.raises(SearchError, match="weight must"):
            Term(text="x", weight=weight)


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=4), st.floats(0.5, 2), st.integers(0, 99))
def test_only_the_direction_counts_and_the_order_does_not(
    weights: list[float], factor: float, seed: int
) -> None:
    vectors = list(np.random.default_rng(seed).standard_normal((len(weights), 2, 8)))
    once = direction(vectors, weights)
    assert np.linalg.norm(once, axis=1) == pytest.approx(1, abs=1e-6)
    longer = direction(vectors, [factor * weight for weight in weights])
    assert longer == pytest.approx(once, abs=1e-6)
    assert direction(vectors[::-1], weights[::-1]) == pytest.approx(once, abs=1e-6)


def test_a_weighted_sum_by_hand() -> None:
    x, y = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert direction([x, y], [0.6, -0.8]) == pytest.approx(np.array([[0.6, -0.8]]))
    with pytest.raises(SearchError, match="opposite directions"):
        direction([x, x], [1.0, -1.0])
