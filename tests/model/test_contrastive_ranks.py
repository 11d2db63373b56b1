from functools import partial

import pytest
import torch
from torch import Tensor

from minimal_example import minimal_coca
from tiny_ranks import (
    Results,
    on_ranks,
    own_losses,
    pairs_of_vectors,
    plain_sigmoid_loss,
)

PAIRS = 8

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module", params=[2, 4])
def ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Results]:
    """Results of each rank, from one start of the processes for all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    return on_ranks(request.param, folder, partial(own_losses, PAIRS))


def assert_same(ours: Tensor, reference: Tensor) -> None:
    """Equal to 1e-5 of the reference's length; two units of fp32 where terms of size 1 cancel.

    Sums in another order differ by up to 2e-6 with some weights; a lost pair or rank by 0.1.
    """
    assert (ours - reference).norm() <= 1e-5 * reference.norm() + 2**-22


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_the_mean_over_ranks_is_the_loss_of_all_pairs_in_value_and_gradient(
    ranks: list[Results], name: str
) -> None:
    images, texts = (side.clone().requires_grad_() for side in pairs_of_vectors(PAIRS))
    scale, bias = (torch.tensor(number, requires_grad=True) for number in (10.0, -10.0))
    leaves = [images, texts, scale]
    if name == "softmax":
        loss = minimal_coca.contrastive_loss(images, texts, scale)
    else:
        loss = plain_sigmoid_loss(images, texts, scale, bias)
        leaves.append(bias)
    assert_same(torch.stack([own[f"{name}/loss"] for own in ranks]).mean(), loss.detach())
    nearest = (images @ texts.T).argmax(dim=1) == torch.arange(PAIRS)
    hits = torch.stack([own[f"{name}/image_to_text"] for own in ranks])
    assert_same(hits.mean(), nearest.float().mean())
    for number, reference in enumerate(torch.autograd.grad(loss, leaves)):
        own = [results[f"{name}/{number}"] for results in ranks]
        # Each row belongs to one rank; scalars belong to all ranks.
        ours = torch.cat(own) / len(ranks) if reference.ndim else torch.stack(own).mean()
        assert_same(ours, reference)
