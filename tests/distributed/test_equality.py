"""Any number of ranks trains the model that one process trains."""

from functools import partial
from pathlib import Path

import pytest
import torch

from coca.train.distributed.parallel import Kind
from tiny_ranks import Results, on_ranks
from tiny_shared_run import (
    CASES,
    HYBRID,
    KINDS,
    RUNS,
    refused_copies,
    run,
    sharded_steps,
    step,
    steps_and_runs,
)

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module", params=[2, 4])
def ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Results]:
    """What each rank found; one start of the processes serves all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    return on_ranks(request.param, folder, partial(steps_and_runs, folder))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What this process finds on its own."""
    results: Results = {}
    for loss, _ in CASES:
        results |= step("none", loss, None, loss)
    for optimizer, steps in RUNS:
        folder = tmp_path_factory.mktemp("run")
        results |= run(folder, "none", optimizer, steps, prefix=optimizer)
    return results


def under(results: Results, prefix: str) -> Results:
    return {
        name.removeprefix(f"{prefix}/"): tensor
        for name, tensor in results.items()
        if name.startswith(f"{prefix}/")
    }


def difference(ours: Results, reference: Results) -> float:
    """Length of the difference over all tensors together, relative to the reference's."""
    assert ours.keys() == reference.keys()
    flat = [torch.cat([side[name].flatten() for name in reference]) for side in (ours, reference)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("loss", "micro_batch"), CASES)
def test_ranks_give_the_loss_and_the_gradient_of_one_process(
    ranks: list[Results], alone: Results, kind: Kind, loss: str, micro_batch: int | None
) -> None:
    reference = under(alone, loss)
    for results in ranks:
        ours = under(results, f"{kind}/{loss}/{micro_batch}")
        # fp32 has seven digits, and sums come in another order: 6e-7 was the most seen.
        assert difference(under(ours, "gradient"), under(reference, "gradient")) < 1e-6
        for name, figure in under(reference, "figure").items():
            torch.testing.assert_close(ours[f"figure/{name}"], figure, rtol=1e-6, atol=0)
        for name, gradient in under(reference, "gradient").items():
            error = (ours[f"gradient/{name}"] - gradient).norm()
            assert error < 2e-6 * gradient.norm(), name


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_end_with_the_weights_of_one_process(
    ranks: list[Results], alone: Results, kind: Kind
) -> None:
    for results in ranks:
        assert difference(under(results, f"{kind}/adamw"), under(alone, "adamw")) < 2e-6
        if ours := under(results, f"{kind}/adafactor"):
            # Its momentum has the eight bits of bf16, which a last digit can turn over.
            assert difference(ours, under(alone, "adafactor")) < 1e-4
        else:
            assert len(ranks) > 2


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """Steps of four ranks with each setting of FSDP."""
    return on_ranks(4, tmp_path_factory.mktemp("sharded"), sharded_steps)


@pytest.mark.parametrize("name", HYBRID)
@pytest.mark.parametrize("micro_batch", [None, 1])
def test_copies_of_shards_give_the_gradient_of_one_process(
    sharded: list[Results], alone: Results, name: str, micro_batch: int | None
) -> None:
    reference = under(alone, "both")
    for results in sharded:
        ours = under(results, f"{name}/{micro_batch}")
        # As above.
        assert difference(under(ours, "gradient"), under(reference, "gradient")) < 1e-6
        for figure, value in under(reference, "figure").items():
            torch.testing.assert_close(ours[f"figure/{figure}"], value, rtol=1e-6, atol=0)


def test_a_step_reduces_its_gradients_once_and_gathers_kept_weights_once(
    sharded: list[Results],
) -> None:
    def count(name: str, micro_batch: int | None, operation: str) -> int:
        (number,) = {int(it[f"{name}/{micro_batch}/collectives/{operation}"]) for it in sharded}
        return number

    groups = count("1 x kept", None, "reduce_scatter_base")
    for name in HYBRID:
        for micro_batch in (None, 1):
            assert count(name, micro_batch, "reduce_scatter_base") == groups
        # Once for each group of parameters, or twice but for the outermost group.
        assert count(name, None, "allgather_base") == (
            groups if name.endswith("kept") else 2 * groups - 1
        )
        # Two micro-batches run forward twice and backward once.
        gathers = count(name, 1, "allgather_base")
        assert gathers == groups if name.endswith("kept") else gathers > 4 * groups
    for name in ("2 x kept", "2 x freed"):
        # Each copy reduces its shards of each group with the other copy.
        one_copy = name.replace("2", "1")
        assert count(name, 1, "allreduce") == count(one_copy, 1, "allreduce") + groups


def test_copies_must_divide_the_ranks(tmp_path: Path) -> None:
    for words in on_ranks(2, tmp_path, refused_copies):
        assert words.startswith("train.fsdp.replicas is 3, which does not divide the 2 ranks")
