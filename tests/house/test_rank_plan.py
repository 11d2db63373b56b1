"""The formulas of `benchmarks/many_ranks.py`: laws, and what a real step and FSDP have."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.fsdp import FSDPModule

from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.train.backward import backward
from coca.train.distributed.parallel import Kind, ParallelModel
from coca.train.objective import CoCaObjective, LossConfig
from tiny import caption, tiny_config

FOLDER = Path(__file__).parents[2] / "benchmarks"
MINI = CoCaConfig.presets()["coca_mini"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def formulas() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("rank_plan")


@pytest.mark.parametrize("ranks", [2, 8, 512])
def test_ddp_sends_all_but_one_part_of_the_gradients_twice(formulas: Any, ranks: int) -> None:
    whole = formulas.Plan(MINI, "ddp", 1, 8, None).state()["gradients"]
    sent = formulas.Plan(MINI, "ddp", ranks, 8, None).sent()["gradients"]
    assert sent == pytest.approx(2 * (ranks - 1) / ranks * whole)


def test_twice_as_many_ranks_hold_half_of_a_sharded_state_and_all_of_a_replicated_one(
    formulas: Any,
) -> None:
    few, many = (
        {
            kind: sum(formulas.Plan(MINI, kind, n, 8, None).state().values())
            for kind in ("ddp", "fsdp")
        }
        for n in (4, 8)
    )
    assert few["ddp"] == many["ddp"]
    # Means of rows and columns are whole on each rank.
    assert many["fsdp"] / few["fsdp"] == pytest.approx(0.5, abs=0.01)


def test_padding_costs_traffic_where_the_ranks_do_not_divide_a_width(formulas: Any) -> None:
    group = formulas.Group((torch.Size([768, 4]),))
    assert [group.whole(ranks) for ranks in (1, 256, 512)] == [768 * 4, 768 * 4, 1024 * 4]


def test_each_further_micro_batch_sends_the_weights_once_more(formulas: Any) -> None:
    def sent(micro_batch: int) -> dict[str, float]:
        return formulas.Plan(MINI, "fsdp", 4, 12, micro_batch).sent()

    two, three, four = map(sent, (6, 4, 3))
    for part in ("weights", "gradients"):
        assert three[part] - two[part] == pytest.approx(four[part] - three[part])
    assert two["loss"] == four["loss"]


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_predicted_flops_and_activations_are_those_of_a_real_step(
    formulas: Any, micro_batch: int | None
) -> None:
    config = tiny_config()
    length = config.text.context_length
    plan = formulas.Plan(config, "ddp", 1, 6, micro_batch, half=False)
    tokens = torch.tensor([caption(*range(4, 4 + length - 3), length=length)] * plan.pairs)
    side = config.image.image_size
    keys = tuple(map(str, range(plan.pairs)))
    batch = Batch(torch.zeros(plan.pairs, 3, side, side), tokens, keys, start=0)
    parallel = ParallelModel(CoCa(config), "none", device=CPU)
    with formulas.flop_counter() as counter, formulas.kept_tensors(parallel.model) as kept:
        backward(parallel, CoCaObjective(LossConfig()), batch, micro_batch=micro_batch)
    assert counter.get_total_flops() == sum(plan.flops())
    if micro_batch is None:
        once, each = formulas.count(config, half=False).kept
        # Besides, the objective keeps some numbers of each pair.
        assert sum(kept.values()) == pytest.approx(once + plan.pairs * each, rel=0.02)


def test_the_groups_are_those_that_fsdp_gathers(formulas: Any) -> None:
    model = CoCa(tiny_config())
    expected = sorted(group.whole(1) for group in formulas.groups_of(model))
    distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        kind: Kind = "fsdp"
        module = ParallelModel(model, kind, device=CPU)._module
        found: list[int] = []
        taken: set[nn.Parameter] = set()
        for part in reversed(list(module.modules())):
            if isinstance(part, FSDPModule):
                own = [it for it in part.parameters() if it.ndim and it not in taken]
                taken.update(own)
                found.append(sum(it.numel() for it in own))
    finally:
        distributed.destroy_process_group()
    assert sorted(found) == expected


def test_the_loss_of_32k_pairs_fits_where_a_matrix_of_all_similarities_is_large(
    formulas: Any,
) -> None:
    assert formulas.loss_bytes(64, 512, 768) < 0.1 * formulas.FP32 * 32_768**2
    assert formulas.loss_bytes(64, 512, 768) == pytest.approx(
        2 * formulas.loss_bytes(32, 512, 768), rel=0.02
    )
