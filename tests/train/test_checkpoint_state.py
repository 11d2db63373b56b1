import json
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coca.core.errors import ModelError
from coca.model.coca import CoCa
from coca.model.sharded_safetensors import write_whole
from coca.train.checkpoints import (
    SavedGroup,
    model_tensors,
    optimizer_state,
    random_state,
    restore_model,
    restore_optimizer,
    restore_random,
)
from coca.train.distributed.context import DistributedContext
from coca.train.optim.optimizer import OptimizerConfig, make_optimizer
from tiny import tiny_config

CPU = torch.device("cpu")


class Tied(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, width)
        self.vocabulary = nn.Linear(width, 5, bias=False)
        self.vocabulary.weight = self.embedding.weight
        self.register_buffer("seen", torch.zeros(0))


def saved(folder: Path, tensors: Mapping[str, torch.Tensor]) -> SavedGroup:
    write_whole(folder, {"group": tensors})
    return SavedGroup(folder, "group", DistributedContext())


def trained(model: nn.Module, name: str, steps: int = 2) -> torch.optim.Optimizer:
    optimizer = make_optimizer(model, OptimizerConfig(name=name, lr=0.01))
    for step in range(steps):
        train_once(model, optimizer, step)
    return optimizer


def train_once(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_tied_tensors_are_kept_once_and_restored_under_both_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = Tied(), Tied()
    tensors = model_tensors(source)
    assert set(tensors) == {"embedding.weight", "seen"}
    restore_model(target, saved(tmp_path, tensors))
    assert torch.equal(target.vocabulary.weight, source.vocabulary.weight)
    assert target.vocabulary.weight is target.embedding.weight


def test_another_model_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    model = Tied()
    before = model.embedding.weight.detach().clone()
    tensors = {**model_tensors(model), "embedding.weight": torch.zeros(5, 4)}
    with pytest.raises(ModelError, match=r"embedding.weight has shape \(5, 4\) there"):
        restore_model(model, saved(tmp_path, tensors))
    with pytest.raises(ModelError, match="1 tensors exist in only one of the two, such as extra"):
        restore_model(model, saved(tmp_path, {**model_tensors(model), "extra": torch.zeros(1)}))
    assert torch.equal(model.embedding.weight, before)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_an_optimizer_that_was_restored_takes_the_same_steps(name: str, tmp_path: Path) -> None:
    if name == "adafactor":
        pytest.importorskip("timm")
    torch.manual_seed(0)
    source = CoCa(tiny_config())
    optimizer = trained(source, name)
    target = CoCa(tiny_config())
    restore_model(target, saved(tmp_path, model_tensors(source)))
    other = make_optimizer(target, OptimizerConfig(name=name, lr=0.01))
    tensors, values = optimizer_state(source, optimizer)
    assert json.loads(json.dumps(values)) == values
    restore_optimizer(target, other, saved(tmp_path, tensors), values)
    for model, its in ((source, optimizer), (target, other)):
        train_once(model, its, 7)
    for mine, theirs in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    again, _ = optimizer_state(target, other)
    assert {key: t.dtype for key, t in again.items()} == {
        key: t.dtype for key, t in tensors.items()
    }


def test_values_that_are_no_tensors_are_saved_with_them(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = trained(model, "adamw", steps=1)
    optimizer.state[model.weight]["restarts"] = 3
    optimizer.state[model.bias]["slow"] = None
    tensors, values = optimizer_state(model, optimizer)
    assert values == {"restarts/weight": 3, "slow/bias": None}
    other = make_optimizer(model, OptimizerConfig())
    restore_optimizer(model, other, saved(tmp_path, tensors), values)
    assert other.state[model.weight]["restarts"] == 3
    assert other.state[model.bias]["slow"] is None


def test_an_optimizer_before_its_first_step_has_nothing_to_keep(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = make_optimizer(model, OptimizerConfig())
    assert optimizer_state(model, optimizer) == ({}, {})
    restore_optimizer(model, optimizer, saved(tmp_path, {}), {})


def test_a_parameter_frozen_since_raises(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    tensors, values = optimizer_state(model, trained(model, "adamw", steps=1))
    model.bias.requires_grad_(False)
    optimizer = make_optimizer(model, OptimizerConfig())
    with pytest.raises(ModelError, match="updates bias, which is frozen"):
        restore_optimizer(model, optimizer, saved(tmp_path, tensors), values)


def test_random_generators_resume_from_their_state() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    np.random.standard_normal()  # noqa: NPY002  leaves half a pair behind, which counts, too
    state = json.loads(json.dumps(random_state(CPU)))
    expected = [draw() for _ in range(3)]
    restore_random(state, CPU)
    assert [draw() for _ in range(3)] == expected
