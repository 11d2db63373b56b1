from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from coca.metrics.classification import (
    confusion_matrix,
    per_class_accuracy,
    softmax,
    top_k_accuracy,
)

Problem = tuple[ndarray, ndarray]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Scores of few levels, so that ties abound, and their targets."""
    samples, classes = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = random.integers(0, 3, (samples, classes)).astype(np.float32)
    return scores, random.integers(classes, size=samples)


@given(problems(), st.integers(1, 7))
def test_accuracy_equals_that_of_a_stable_sort(problem: Problem, k: int) -> None:
    scores, targets = problem
    first = np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()
    right = [target in row for row, target in zip(first, targets.tolist(), strict=True)]
    assert top_k_accuracy(scores, targets, k) == pytest.approx(sum(right) / len(right))


@given(problems())
def test_the_three_scores_agree(problem: Problem) -> None:
    scores, targets = problem
    classes = scores.shape[1]
    predicted = scores.argmax(axis=1)
    confusion = confusion_matrix(predicted, targets, classes)
    counts = np.bincount(targets, minlength=classes)
    assert confusion.sum(axis=1).tolist() == counts.tolist()
    assert confusion.sum(axis=0).tolist() == np.bincount(predicted, minlength=classes).tolist()
    accuracy = top_k_accuracy(scores, targets)
    assert confusion.trace() / len(targets) == pytest.approx(accuracy)
    per_class = per_class_accuracy(predicted, targets, classes)
    assert np.nansum(per_class * counts) / len(targets) == pytest.approx(accuracy)


def test_scores_of_a_case_worked_by_hand() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    targets = np.array([1, 1, 1])
    assert top_k_accuracy(scores, targets) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, targets, 2) == 1.0
    predicted = scores.argmax(axis=1)
    assert confusion_matrix(predicted, targets, 3).tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    per_class = per_class_accuracy(predicted, targets, 3)
    assert np.isnan(per_class[[0, 2]]).all()
    assert per_class[1] == pytest.approx(1 / 3)


def test_small_integers_do_not_overflow() -> None:
    targets = np.array([99], dtype=np.int8)
    assert confusion_matrix(targets, targets, 100)[99, 99] == 1


def test_softmax_is_that_of_torch_and_does_not_overflow() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(softmax(logits), torch.tensor(logits).softmax(dim=1).numpy())


ZEROS = np.zeros((2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k_accuracy(ZEROS, np.array([0, 2])), "target 2 is not a class; .* 0 to 1"),
        (lambda: per_class_accuracy(np.zeros(2, int), np.array([0, -1]), 2), "target -1 is not a"),
        (lambda: confusion_matrix(np.array([0, 2]), np.zeros(2, int), 2), "prediction 2 is not a"),
        (lambda: top_k_accuracy(ZEROS[:0], np.zeros(0, int)), "no sample to score"),
        (lambda: top_k_accuracy(ZEROS + np.nan, np.zeros(2, int)), "scores contain 4 NaN"),
        (lambda: top_k_accuracy(ZEROS, np.zeros(2, int), 0), "k is 0"),
    ],
)
def test_what_cannot_be_scored_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
