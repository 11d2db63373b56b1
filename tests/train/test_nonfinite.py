import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from coca.data.batch import Batch
from coca.train.nonfinite import NonFiniteReport, cause_of, location_of, nonfinite_report
from tiny_ranks import ragged_batch

FINE = {"loss": 1.0, "contrastive": 0.5, "grad_norm": 2.0}


def gradients(*bad: str) -> Iterator[tuple[str, Tensor]]:
    for name in ("first", "second", "third"):
        yield name, torch.tensor([0.0, torch.inf if name in bad else 1.0])


@pytest.mark.parametrize(
    ("figures", "bad", "cause"),
    [
        ({"contrastive": torch.nan, "loss": torch.nan}, (), "contrastive"),
        ({"loss": torch.inf}, ("first",), "the loss"),
        ({"grad_norm": torch.nan}, ("second", "third"), "the gradient of second"),
        ({"grad_norm": torch.inf}, (), "the gradient norm"),
    ],
)
def test_the_first_that_is_not_finite_is_the_cause(
    figures: dict[str, float], bad: tuple[str, ...], cause: str
) -> None:
    assert nonfinite_report(FINE | figures, gradients(*bad), ragged_batch(2)).cause == cause


def test_a_report_names_the_samples_and_knows_images_that_are_not_finite() -> None:
    batch: Batch = dataclasses.replace(ragged_batch(3), start=6)
    assert nonfinite_report(FINE, gradients(), batch) == NonFiniteReport(
        "the gradient norm", False, 6, 8
    )
    batch.images[1, 0, 0, 0] = torch.nan
    assert nonfinite_report(FINE, gradients(), batch).culprits


def test_the_rank_with_the_shard_names_the_gradient() -> None:
    length = NonFiniteReport("the gradient norm", False, 0, 3)
    named = NonFiniteReport("the gradient of second", False, 4, 7)
    assert cause_of([length, named]) == "the gradient of second"
    assert cause_of([length, length]) == "the gradient norm"


@pytest.mark.parametrize(
    ("culprits", "location"),
    [
        ((False,), "samples 0 to 3"),
        ((True,), "samples 0 to 3"),
        ((False, False, False), "samples 0 to 11"),
        ((True, True, True), "samples 0 to 11"),
        ((False, True, False), "rank 1, samples 4 to 7"),
        ((False, True, True), "rank 1, 2, samples 4 to 11"),
    ],
)
def test_the_location_is_as_narrow_as_what_is_known(
    culprits: tuple[bool, ...], location: str
) -> None:
    reports = [
        NonFiniteReport("loss", bad, 4 * rank, 4 * rank + 3) for rank, bad in enumerate(culprits)
    ]
    assert location_of(reports) == location
