"""OpenCLIP's CoCa on two ranks: the step of one process."""

from pathlib import Path

import pytest
import torch

from coca.train.distributed.parallel import Kind
from tiny_architectures import KINDS, sharded_steps_on_cuda, steps, steps_of_kinds
from tiny_ranks import Results, on_ranks

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Results]]:
    return on_ranks(2, tmp_path_factory.mktemp("ranks"), steps_of_kinds)


@pytest.fixture(scope="module")
def alone() -> Results:
    return steps("none")


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_give_the_losses_and_gradients_of_one_process(
    made: list[dict[str, Results]], alone: Results, kind: Kind
) -> None:
    for rank in made:
        # fp32 has seven digits, and sums come in another order.
        assert_same_step(rank[kind], alone, tolerance=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")
def test_sharded_weights_on_an_accelerator_give_the_gradients_of_the_cpu(
    alone: Results, tmp_path: Path
) -> None:
    (found,) = on_ranks(1, tmp_path, sharded_steps_on_cuda, backend="cpu:gloo,cuda:nccl")
    assert_same_step(found, alone, tolerance=1e-5)


def assert_same_step(found: Results, alone: Results, *, tolerance: float) -> None:
    """Figures differ by this share of themselves, gradients by this share of the whole gradient.

    Some gradients are rounding alone, as of a bias before a norm.
    """
    wanted = {name: value for name, value in alone.items() if name != "apart"}
    gradients = [value.flatten() for name, value in wanted.items() if "gradient/" in name]
    length = float(torch.cat(gradients).norm())
    assert wanted.keys() == found.keys() - {"apart"}
    for name, value in wanted.items():
        size = length if "gradient/" in name else float(value.abs())
        assert float((found[name] - value).norm()) <= tolerance * size, name


def test_each_decoder_layer_of_openclip_is_gathered_by_itself(
    made: list[dict[str, Results]],
) -> None:
    assert all(bool(rank["fsdp"]["apart"].all()) for rank in made)
