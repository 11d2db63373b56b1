from pathlib import Path

import pytest
import torch
from torch import nn

from coca.core.errors import ConfigError
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.parallel import Kind, ParallelModel
from tiny_ranks import Results, on_ranks
from tiny_shards import CPU, LIMIT, look, make_model


def test_one_process_on_its_own_runs_the_model_as_it_is() -> None:
    linear = nn.Linear(2, 1)
    parallel = ParallelModel(linear, "auto", device=CPU)
    assert parallel.model is linear
    assert parallel.run(lambda model: model) is linear
    with parallel.sync(True):
        (linear.weight.sum() * 3).backward()
    assert [name for name, _ in parallel.gradients()] == ["weight"]
    assert float(parallel.gradient_norms().total) == pytest.approx(18**0.5)


@pytest.mark.parametrize(("limit", "length"), [(1.0, 1.0), (9.0, 5.0)])
def test_a_gradient_that_is_too_long_is_scaled_and_another_left_alone(
    limit: float, length: float
) -> None:
    linear = nn.Linear(2, 1, bias=False)
    parallel = ParallelModel(linear, "none", device=CPU)
    linear.weight.grad = torch.tensor([[3.0, 4.0]])
    parallel.clip_(parallel.gradient_norms().total, limit)
    torch.testing.assert_close(linear.weight.grad, torch.tensor([[0.6, 0.8]]) * length)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_one_process_on_its_own_has_nobody_to_share_with(kind: Kind) -> None:
    with pytest.raises(
        ConfigError, match=rf"parallel is {kind}, but .* only one process; .*torchrun"
    ):
        ParallelModel(nn.Linear(1, 1), kind, device=CPU)


def test_several_processes_must_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        DistributedContext, "current", classmethod(lambda cls: DistributedContext(1, 2))
    )
    with pytest.raises(ConfigError, match="parallel is none, but 2 processes take part"):
        ParallelModel(nn.Linear(1, 1), "none", device=CPU)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Results]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    return on_ranks(2, folder, look)


@pytest.mark.distributed
def test_gradients_are_exchanged_behind_the_last_pass_only(ranks: list[dict[str, Results]]) -> None:
    # Ranks ask for 1 and 2: their own first, then the mean of twice that.
    assert [float(own["parts"]["first"]) for own in ranks] == [1.0, 2.0]
    assert [float(own["parts"]["last"]) for own in ranks] == [3.0, 3.0]


@pytest.mark.distributed
def test_each_rank_has_half_of_every_matrix_and_the_whole_temperature(
    ranks: list[dict[str, Results]],
) -> None:
    whole = {name: p.numel() for name, p in make_model("none").model.named_parameters()}
    for name, size in whole.items():
        held = [int(own["pieces"][name]) for own in ranks]
        assert held == [-1, -1] if name == "log_scale" else sum(held) == size, name
    assert sum(max(0, int(n)) for n in ranks[0]["pieces"].values()) < 0.53 * sum(whole.values())


@pytest.mark.distributed
def test_pieces_in_half_precision_train_as_whole_weights_do(
    ranks: list[dict[str, Results]],
) -> None:
    for own in ranks:
        for name, figure in own["ddp"].items():
            # bf16 has eight bits, and here the gains of norms are rounded as well.
            torch.testing.assert_close(own["fsdp"][name], figure, rtol=2**-7, atol=0)


@pytest.mark.distributed
def test_blocks_of_other_libraries_are_groups_by_their_size(
    ranks: list[dict[str, Results]],
) -> None:
    for own in ranks:
        replicated, sharded = own["blocks ddp"], own["blocks fsdp"]
        # The six blocks of timm's `test_vit`.
        assert (int(replicated["groups"]), int(sharded["groups"])) == (0, 6)
        for name in ("loss", "grad_norm"):
            torch.testing.assert_close(sharded[name], replicated[name])


@pytest.mark.distributed
def test_a_gradient_in_pieces_is_measured_and_clipped_as_a_whole(
    ranks: list[dict[str, Results]],
) -> None:
    for own in ranks:
        figures = own["clipped"]
        assert float(figures["norm"]) == pytest.approx(float(figures["whole"]), rel=1e-6)
        assert figures["whole"] > LIMIT
        assert float(figures["clipped"]) == pytest.approx(LIMIT, rel=1e-5)
