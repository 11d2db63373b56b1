"""Every caption under the constraint is a sequence of listed words and marks, and every such
caption of the maximum length is possible."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.processing.word_constraint import WordConstraint

EOS, SIZE = 0, 9
MARKS = (1, 2)
IDS = st.integers(1, SIZE - 1)
WORDS = st.lists(st.lists(IDS, min_size=1, max_size=4), max_size=6)


def constraint_of(words: list[list[int]]) -> WordConstraint:
    return WordConstraint(words, MARKS, eos_id=EOS, vocab_size=SIZE)


def allowed(constraint: WordConstraint, ids: list[int], remaining: int) -> list[int]:
    states = constraint.states(np.array([ids], np.int64))
    mask = constraint.forbidden(states, np.array([remaining]), width=SIZE)
    return [int(id_) for id_ in np.flatnonzero(~mask[0])]


def is_caption(ids: list[int], words: list[list[int]]) -> bool:
    """Return whether token ids are listed words and marks: the reference."""
    pieces = [*words, *([mark] for mark in MARKS)]
    reached = {0}
    for end in range(1, len(ids) + 1):
        if any(end - len(it) in reached and ids[:end][-len(it) :] == it for it in pieces):
            reached.add(end)
    return len(ids) in reached


@given(words=WORDS, budget=st.integers(1, 8), data=st.data())
def test_each_caption_within_the_budget_has_whole_listed_words(
    words: list[list[int]], budget: int, data: st.DataObject
) -> None:
    constraint, ids = constraint_of(words), list[int]()
    while len(ids) < budget:
        # Never empty, or there is nothing to draw from.
        token = data.draw(st.sampled_from(allowed(constraint, ids, budget - len(ids))))
        if token == EOS:
            break
        ids.append(token)
    assert is_caption(ids, words)


def test_a_mark_that_joins_words_follows_a_word_only_after_a_space() -> None:
    vocabulary = ["", "a", "dog", ".", "-", " -", "'", "\ufffd", " "]
    constraint = WordConstraint.of_words(
        ["a", "dog"],
        encode=lambda text, limit: [vocabulary.index(text)],
        decode=lambda ids: "".join(vocabulary[id_] for id_ in ids),
        eos_id=EOS,
        vocab_size=SIZE,
    )
    following = [vocabulary[id_] for id_ in allowed(constraint, [1], 3)]
    assert following == ["", "a", "dog", ".", " -"]


def words_from(starts: Sequence[int], rest: Sequence[int]) -> st.SearchStrategy[list[list[int]]]:
    """Draw words where a token begins a word or continues one, as in a vocabulary with spaces."""
    word = st.tuples(st.sampled_from(starts), st.lists(st.sampled_from(rest), max_size=3))
    return st.lists(word.map(lambda it: [it[0], *it[1]]), max_size=5)


@given(
    words=words_from([3, 4, 5], [*MARKS, 6, 7, 8]) | words_from([*MARKS, 3, 4, 5], [6, 7, 8]),
    budget=st.integers(1, 4),
)
def test_each_sequence_of_listed_words_is_possible(words: list[list[int]], budget: int) -> None:
    constraint = constraint_of(words)
    found, open_ends = set[tuple[int, ...]](), [list[int]()]
    while open_ends:
        ids = open_ends.pop()
        if len(ids) == budget:
            found.add(tuple(ids))
            continue
        for token in allowed(constraint, ids, budget - len(ids)):
            if token == EOS:
                found.add(tuple(ids))
            else:
                open_ends.append([*ids, token])
    expected = {
        ids
        for length in range(budget + 1)
        for ids in product(range(1, SIZE), repeat=length)
        if is_caption(list(ids), words)
    }
    assert found == expected


def test_captions_of_a_batch_have_states_of_their_own() -> None:
    constraint = constraint_of([[3, 4], [5]])
    states = constraint.states(np.array([[3, 4, 3], [5, 3, 4], [5, 5, 5]]))
    mask = constraint.forbidden(states, np.array([4, 4, 1]), width=SIZE)
    expected = [[4], [EOS, *MARKS, 3, 5], [EOS, *MARKS, 5]]
    assert [np.flatnonzero(~row).tolist() for row in mask] == expected
    assert constraint.is_whole(states).tolist() == [False, True, True]


def test_ids_beyond_the_tokenizer_are_forbidden_and_part_of_no_word() -> None:
    constraint = constraint_of([[3, 4]])
    states = constraint.states(np.array([[3, SIZE], [3, -1]]))
    assert constraint.is_whole(states).all()
    assert constraint.forbidden(states, np.array([3, 3]), width=12)[:, SIZE:].all()


@pytest.mark.parametrize("remaining", [0, -2])
def test_a_caption_that_is_over_is_not_left_without_tokens(remaining: int) -> None:
    assert allowed(constraint_of([[3, 4]]), [3], remaining)
    assert allowed(constraint_of([[3, 4]]), [], remaining)
