"""A guess without looking: the most frequent answer behind the longest known beginning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.metrics.language_prior import LanguagePrior

KNOWN = ["How many cats?", "how many dogs are there", "how big is it", "what is it"]
ANSWERS = [["two", "2"], ["3"], ["small"], ["cup"]]

pairs = st.lists(
    st.tuples(st.text("ab ", max_size=6), st.sampled_from(["x", "y", "z"])), min_size=1, max_size=20
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("how many dogs bark", "3"),
        ("how many birds", "2"),
        ("how small", "2"),
        ("why", "2"),
        ("", "2"),
        ("WHAT now ?", "cup"),
    ],
)
def test_the_longest_known_beginning_decides(question: str, answer: str) -> None:
    assert LanguagePrior(KNOWN, ANSWERS)(question) == answer


def test_of_equally_frequent_answers_the_first_in_the_alphabet_is_taken() -> None:
    turned = LanguagePrior(["a", "b"], [["zebra"], ["ape"]])
    assert (
        turned.most_frequent
        == LanguagePrior(["b", "a"], [["ape"], ["zebra"]]).most_frequent
        == "ape"
    )


@given(pairs)
def test_on_its_own_questions_no_answer_by_question_alone_is_right_more_often(
    known: list[tuple[str, str]],
) -> None:
    questions, answers = zip(*known, strict=True)
    guess = LanguagePrior(questions, [[answer] for answer in answers])
    right = sum(guess(question) == answer for question, answer in known)
    by_question: dict[tuple[str, ...], list[str]] = {}
    for question, answer in known:
        by_question.setdefault(tuple(question.split()), []).append(answer)
    best = sum(max(map(same.count, same)) for same in by_question.values())
    majority = sum(guess.most_frequent == answer for answer in answers)
    # Equal up to questions of which another is the beginning, which add to its counts.
    assert majority <= best
    assert right <= best


def test_a_guess_needs_an_answer() -> None:
    with pytest.raises(ValueError, match="no answer to learn"):
        LanguagePrior(["a"], [[]])
    with pytest.raises(ValueError, match="1 questions do not fit 0"):
        LanguagePrior(["a"], [])
