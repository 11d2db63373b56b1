"""Answers are scored as the official evaluation of VQA scores them, and by hand."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.metrics.answers import (
    LanguagePrior,
    answer_scores,
    consistency,
    exact_match,
    normalize_answer,
    vqa_accuracy,
)
from developer_data import sample_file

OFFICIAL = "metrics/vqa_accuracy.json"

# Few, so that people often agree; two pairs are equal once normalised.
opinions = st.sampled_from(["yes", "no", "two dogs", "2 dogs", "A cat.", "cat", ""])


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    path = sample_file(OFFICIAL, "comparison with 120 official accuracies")
    return json.loads(path.read_text())


def test_each_of_120_accuracies_is_the_official_one(official: dict[str, Any]) -> None:
    cases = official["cases"]
    found = vqa_accuracy([case["prediction"] for case in cases], [c["answers"] for c in cases])
    assert [round(100 * it, 2) for it in found.tolist()] == [case["accuracy"] for case in cases]
    assert round(100 * float(found.mean()), 2) == official["overall"]["overall"]
    for kind, wanted in official["overall"]["perAnswerType"].items():
        of_kind = [case["answer_type"] == kind for case in cases]
        assert round(100 * float(found[of_kind].mean()), 2) == wanted, kind


def test_each_of_50_normal_forms_is_the_official_one(official: dict[str, Any]) -> None:
    assert [[text, normalize_answer(text)] for text, _ in official["normalize"]] == official[
        "normalize"
    ]


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Two dogs.", "2 dogs"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),  # both apostrophes are not looked for
        ("somebody'd", "somebodyd"),  # an oddity of the official table
        ("Im", "im"),  # the table has a capital letter, which is never met
        ("black-and-white", "black and white"),
        ("black - and-white", "black andwhite"),  # one blank next to a mark removes it everywhere
        ("1,000-2,000", "10002000"),  # so do grouped digits
        ("3.5 m.", "3.5 m"),
        ("v.2", "v.2"),
        ("." * 40 + "x", "." * 8 + "x"),  # only 32 full stops are removed
        (" on\nthe\ttable ", "on table"),
        ("eleven", "eleven"),
        ("none", "0"),
    ],
)
def test_an_answer_has_one_normal_form(answer: str, normal: str) -> None:
    assert normalize_answer(answer) == normal


def test_answers_that_all_agree_are_compared_to_the_letter_as_officially() -> None:
    assert vqa_accuracy(["cat", "a cat"], [["a cat"] * 10] * 2).tolist() == [0, 1]
    assert exact_match(["cat", "dog"], [["a cat"], ["a cat"]]).tolist() == [True, False]


@given(opinions, st.lists(opinions, min_size=1, max_size=10))
def test_the_accuracy_is_the_mean_over_leaving_out_each_person(
    predicted: str, answers: list[str]
) -> None:
    given_, word = answers, predicted
    if len(set(answers)) > 1:
        given_, word = [normalize_answer(it) for it in answers], normalize_answer(predicted)
    one_out = [
        min(1, sum(other == word for position, other in enumerate(given_) if position != out) / 3)
        for out in range(len(given_))
    ]
    assert vqa_accuracy([predicted], [answers])[0] == pytest.approx(np.mean(one_out))


@given(st.lists(opinions, min_size=2, max_size=10))
def test_an_answer_is_learned_for_what_it_would_score(answers: list[str]) -> None:
    normal = [normalize_answer(answer) for answer in answers]
    for answer, worth in answer_scores(answers).items():
        assert worth == pytest.approx(vqa_accuracy([answer], [normal])[0])


def test_the_answer_of_a_single_person_is_right() -> None:
    assert answer_scores(["The cat"]) == {"cat": 1.0}


def test_a_sentence_counts_when_it_is_judged_right_of_all_its_images() -> None:
    right = np.array([True, False, True, True, True])
    assert consistency(right, ["a", "b", "a", "b", "c"]) == pytest.approx(2 / 3)


# A guess without looking: the most frequent answer behind the longest known beginning.


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vqa_accuracy([], []), "no answer to score"),
        (lambda: vqa_accuracy(["a"], [["a"], ["b"]]), "1 predictions do not fit 2 questions"),
        (lambda: vqa_accuracy(["a", "b"], [["a"], []]), "question 1 has no answer"),
        (lambda: consistency(np.array([True, False]), ["a"]), "2 judgements but 1 groups"),
        (lambda: consistency(np.array([], dtype=bool), []), "no statement"),
        (lambda: answer_scores([]), "no answer to weigh"),
        (lambda: LanguagePrior(["a"], [[]]), "no answer to learn"),
        (lambda: LanguagePrior(["a"], []), "1 questions do not fit 0"),
    ],
)
def test_what_cannot_be_scored_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
