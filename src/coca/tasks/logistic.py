"""Multinomial logistic regression on embeddings, solved to the end by L-BFGS.

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
    """A linear layer."""

    weight: Float[ndarray, "K E"]
    bias: Float[ndarray, " K"]

    def logits(self, features: Float[ndarray, "N E"]) -> Float[ndarray, "N K"]:
        """Gives the logits of each sample."""
        return features @ self.weight.T + self.bias


def fit_logistic(
    features: Float[ndarray, "N E"], targets: Int[ndarray, " N"], classes: int, *, c: float
) -> LinearClassifier:
    """The one minimum of c times the summed cross entropy plus half the squared weights.

    That is what scikit-learn's `LogisticRegression` minimises; the bias costs nothing. It has no
    chance in it: the same samples give the same layer.

    Args:
        features: Numbers of about one in size make a `c` of about one sensible.
        targets: The class of each sample.
        classes: How many there are; one without samples gets the lowest logits.
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
        # As a mean, so that the solver's tolerances mean the same for any number of samples.
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
    """The candidate that is best on a part of the samples which the fit does not see.

    The part is drawn within each class. Of equally good candidates the smallest is taken.
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
    right = []
    for c in sorted(candidates):
        layer = fit_logistic(features[seen], targets[seen], classes, c=c)
        right.append(float((layer.logits(features[kept]).argmax(axis=1) == targets[kept]).mean()))
    return sorted(candidates)[int(np.argmax(right))]
