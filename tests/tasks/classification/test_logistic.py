from typing import Any

import numpy as np
import pytest

from coca.tasks.classification.logistic import choose_c, fit_logistic


def drawn(seed: int = 0, *, samples: int = 60, features: int = 7, classes: int = 4) -> Any:
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(samples, features)).astype(np.float32)
    centers = random.normal(size=(classes, features))
    targets = (inputs @ centers.T + random.gumbel(size=(samples, classes))).argmax(axis=1)
    return inputs, targets


@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
def test_it_is_the_regression_of_scikit_learn(c: float) -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    inputs, targets = drawn()
    ours = fit_logistic(inputs, targets, 4, c=c)
    peer = linear.LogisticRegression(C=c, tol=1e-10, max_iter=10_000)
    peer.fit(inputs.astype(np.float64), targets)
    # Both stop when the gradient is small, which leaves the fifth digit open.
    np.testing.assert_allclose(ours.weight, peer.coef_, atol=1e-4)
    # Only differences of biases have a meaning.
    shift = ours.bias - peer.intercept_
    np.testing.assert_allclose(shift - shift.mean(), 0, atol=1e-4)


def test_at_the_minimum_the_gradient_is_zero() -> None:
    inputs, targets = drawn(3)
    layer = fit_logistic(inputs, targets, 4, c=0.5)
    logits = layer.logits(inputs)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors = odds / odds.sum(axis=1, keepdims=True) - np.eye(4)[targets]
    np.testing.assert_allclose(errors.T @ inputs + layer.weight / 0.5, 0, atol=1e-3)
    np.testing.assert_allclose(errors.sum(axis=0), 0, atol=1e-3)


def test_the_order_of_samples_changes_nothing() -> None:
    inputs, targets = drawn(1)
    order = np.random.default_rng(2).permutation(len(targets))
    one = fit_logistic(inputs, targets, 4, c=1.0)
    other = fit_logistic(inputs[order], targets[order], 4, c=1.0)
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-5)


def test_the_penalty_is_chosen_by_samples_that_the_fit_does_not_see() -> None:
    random = np.random.default_rng(0)
    # One feature determines the class; 200 others are noise that a weak penalty fits.
    targets = np.arange(40) % 2
    inputs = random.normal(size=(40, 201)).astype(np.float32)
    inputs[:, 0] = 20 * (targets - 0.5)
    assert choose_c(inputs, targets, 2, candidates=(1e-9, 1e-3)) == 1e-9
    assert choose_c(inputs[:1], targets[:1], 2, candidates=(0.1, 1.0)) == 0.1
