"""Any number of ranks trains the model that one process trains."""

from functools import partial

import pytest
import torch

from coca.train.distributed.parallel import Kind
from tiny_ranks import Results, on_ranks
from tiny_shared_run import CASES, KINDS, RUNS, run, step, steps_and_runs

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
