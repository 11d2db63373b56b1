"""Short queries: what is removed, and the mean of plural and singular."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.search.query.short_queries import bare_query, embed_queries, name_emoji, singular

SINGULARS = (
    "dogs:dog horses:horse houses:house buses:bus boxes:box beaches:beach dishes:dish cars:car "
    "puppies:puppy flies:fly ties:tie cookies:cookie potatoes:potato shoes:shoe toes:toe "
    "kisses:kiss viruses:virus knives:knife gloves:glove women:woman pizzas:pizza trees:tree"
)
UNCHANGED = "glasses grass tennis bus scissors gas yes red octopus s es news Texas"


def embedded(texts: Sequence[str]) -> np.ndarray:
    """Embed texts as vectors of length 1, by the bytes of each."""
    rows = [np.random.default_rng([*text.encode()]).normal(size=8) for text in texts]
    return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


@pytest.mark.parametrize(
    "typed", ["dog", "a dog", "The dog", "dog.", "a  dog!", "show me a dog", "looking for the dog"]
)
def test_ways_to_ask_for_one_thing_are_one_query(typed: str) -> None:
    assert bare_query(typed).lower() == "dog"
    np.testing.assert_array_equal(
        embed_queries(embedded, [typed.replace("The", "the")]), embedded(["dog"])
    )


@pytest.mark.parametrize(
    "typed", ["a dog runs on the beach", "", "a", "?", "the", "12:30", "Café de Paris"]
)
def test_captions_names_and_lone_words_stay_as_typed(typed: str) -> None:
    assert bare_query(typed) == typed


@pytest.mark.parametrize("pair", SINGULARS.split())
def test_the_singular_of_a_plural_at_the_end(pair: str) -> None:
    plural, one = pair.split(":")
    assert singular(plural) == one
    assert singular(f"red {plural}") == f"red {one}"


@pytest.mark.parametrize("word", UNCHANGED.split())
def test_words_that_only_look_like_plurals_are_unchanged(word: str) -> None:
    assert singular(word) == word


def test_a_plural_is_the_normalized_mean_of_plural_and_singular() -> None:
    (found,) = embed_queries(embedded, ["some dogs"])
    mean = embedded(["dogs", "dog"]).mean(axis=0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), rtol=1e-6)


@pytest.mark.parametrize(
    ("typed", "searched"),
    [
        ("\N{DOG FACE}", "dog face"),
        ("a \N{SOCCER BALL}\N{VARIATION SELECTOR-16}", "soccer ball"),
        ("\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}", "red heart"),
        ("\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}", "thumbs up sign"),
        ("\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}", "woman rocket"),
        ("a man with a \N{TOP HAT} on the beach", "a man with a top hat on the beach"),
    ],
)
def test_emoji_are_searched_by_name(typed: str, searched: str) -> None:
    assert bare_query(typed) == searched


@given(st.text())
def test_a_text_without_emoji_is_not_changed(text: str) -> None:
    named = name_emoji(text)
    assert name_emoji(named) == named
    if text.isascii():
        assert named == text


@given(st.lists(st.text(alphabet="adogs \n.", max_size=12), min_size=1, max_size=5))
def test_vectors_have_length_1_and_do_not_depend_on_the_other_queries(queries: list[str]) -> None:
    found = embed_queries(embedded, queries)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    alone = np.concatenate([embed_queries(embedded, [query]) for query in queries])
    np.testing.assert_array_equal(found, alone)
    assert all(bare_query(bare_query(query)) == bare_query(query) for query in queries)
