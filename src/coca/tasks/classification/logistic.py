"""Multinomial logistic regression on embeddings, solved to convergence by L-BFGS.

Dimensions: N samples, E features, K classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch.nn import functional as F

MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LinearClassifier:
    """Weights of a linear classifier."""

    weight: Float[ndarray, "K E"]
    bias: Float[ndarray, " K"]

    def logits(self, features: Float[ndarray, "N E"]) -> Float[ndarray, "N K"]:
        """Compute the logits of each sample."""
        return features @ self.weight.T + self.bias


def fit_logistic(
    features: Float[ndarray, "N E"], targets: Int[ndarray, " N"], classes: int, *, c: float
) -> LinearClassifier:
    """Minimize c * sum(cross entropy) + ||weight||^2 / 2, without a penalty on the bias.

    This is the objective of scikit-learn's `LogisticRegression`. The fit is deterministic.

    Args:
        features: Features, ideally of unit scale, for which `c` near 1 is suitable.
        targets: Class index of each sample.
        classes: Number of classes; a class without samples gets the lowest logits.
        c: Inverse strength of the penalty, above 0.
    """
    inputs = torch.from_numpy(np.asarray(features, np.float64))
    wanted = torch.from_numpy(np.asarray(targets, np.int64))
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        errors = F.cross_entropy(F.linear(inputs, weight, bias), wanted, reduction="sum")
        # As a mean, so that the solver's tolerances do not depend on the number of samples.
        total = (errors + weight.square().sum() / (2 * c)) / len(wanted)
        total.backward()
        return total

    with torch.enable_grad():
        solver.step(loss)
    return LinearClassifier(
        weight.detach().numpy().astype(np.float32), bias.detach().numpy().astype(np.float32)
    )


def choose_c(
    features: Float[ndarray, "N E"],
    targets: Int[ndarray, " N"],
    classes: int,
    *,
    candidates: tuple[float, ...],
    held_out: float = 0.2,
    seed: int = 0,
) -> float:
    """Choose the candidate with the best accuracy on a stratified held-out split.

    Ties go to the smallest candidate. `held_out` is the fraction of each class, 0 to 1.
    """
    order = np.random.default_rng(seed).permutation(len(targets))
    seen: list[int] = []
    kept: list[int] = []
    for number in range(classes):
        own = order[targets[order] == number]
        cut = round(len(own) * held_out)
        kept += own[:cut].tolist()
        seen += own[cut:].tolist()
    if not kept:
        return min(candidates)
    accuracies = []
    for c in sorted(candidates):
        layer = fit_logistic(features[seen], targets[seen], classes, c=c)
        accuracies.append(
            float((layer.logits(features[kept]).argmax(axis=1) == targets[kept]).mean())
        )
    return sorted(candidates)[int(np.argmax(accuracies))]
