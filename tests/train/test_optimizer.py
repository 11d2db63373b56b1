from typing import Any

import pytest
import torch
from torch import nn

from coca.core.errors import ConfigError, MissingExtraError
from coca.model.coca import CoCa
from coca.train import optimizer as module
from coca.train.optimizer import OPTIMIZERS, OptimizerConfig, make_optimizer, parameter_groups
from tiny import tiny_config


def step_once(
    model: nn.Module, optimizer: torch.optim.Optimizer, gradients: list[torch.Tensor]
) -> None:
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()


def test_only_matrices_that_map_decay() -> None:
    model = CoCa(tiny_config())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, undecayed = (
        {names[id(parameter)] for parameter in group["params"]}
        for group in parameter_groups(model, 0.1)
    )
    assert not any(name.endswith((".bias", "norm.weight")) for name in decayed)
    assert {
        "log_scale",
        "image_encoder.positions",
        "unimodal_decoder.positions",
        "captioning_pooler.queries",
        "contrastive_pooler.queries",
    } <= undecayed
    assert "unimodal_decoder.token_embedding.weight" in decayed
    assert len(decayed) + len(undecayed) == len(names)


def test_frozen_parameters_are_left_out() -> None:
    model = CoCa(tiny_config())
    model.image_encoder.requires_grad_(False)
    kept = [p for group in parameter_groups(model, 0.1) for p in group["params"]]
    assert len(kept) == sum(p.requires_grad for p in model.parameters())


def test_a_group_without_parameters_is_left_out() -> None:
    assert len(parameter_groups(nn.Linear(3, 2, bias=False), 0.1)) == 1


def test_decay_touches_weights_and_not_biases() -> None:
    model = nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    config = OptimizerConfig(lr=0.1, weight_decay=0.5)
    step_once(model, make_optimizer(model, config), [torch.zeros(2, 3), torch.zeros(2)])
    torch.testing.assert_close(model.weight.detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias.detach(), before[1])


def test_adamw_takes_the_step_of_its_paper() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    gradients = [torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.ones(2)]
    config = OptimizerConfig(lr=0.01, weight_decay=0.1)
    step_once(model, make_optimizer(model, config), gradients)
    # After one step the two averages, both corrected for their start at 0, are g and g^2.
    g = gradients[0]
    expected = before * (1 - 0.01 * 0.1) - 0.01 * g / (g.abs() + 1e-8)
    torch.testing.assert_close(model.weight.detach(), expected)


def test_adafactor_takes_the_steps_of_a_plain_reference() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = nn.Linear(24, 20, bias=False)
    weight = model.weight.detach().clone()
    config = OptimizerConfig(
        name="adafactor",
        lr=0.01,
        weight_decay=0.1,
        clipping_threshold=0.8,
        momentum_dtype="float32",
    )
    optimizer = make_optimizer(model, config)
    rows, columns, momentum = torch.zeros(20), torch.zeros(24), torch.zeros(20, 24)
    for step in range(1, 4):
        g = torch.randn(20, 24)
        step_once(model, optimizer, [g])
        # "Scaling Vision Transformers", section 3.4: factored second moment, capped memory.
        memory = min(0.999, 1 - step**-0.8)
        rows = memory * rows + (1 - memory) * (g * g).mean(dim=1)
        columns = memory * columns + (1 - memory) * (g * g).mean(dim=0)
        update = g / (torch.outer(rows, columns) / rows.mean()).sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()) / 0.8)
        momentum = 0.9 * momentum + 0.1 * update
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * momentum
        torch.testing.assert_close(model.weight.detach(), weight)


def test_adafactor_keeps_its_momentum_in_half_precision() -> None:
    pytest.importorskip("timm")
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, OptimizerConfig(name="adafactor"))
    step_once(model, optimizer, [torch.ones(2, 3), torch.ones(2)])
    assert optimizer.state[model.weight]["exp_avg"].dtype == torch.bfloat16


def test_a_missing_extra_is_told_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str, *, extra: str) -> None:
        raise MissingExtraError("timm", extra)

    monkeypatch.setattr(module, "require", absent)
    with pytest.raises(MissingExtraError, match="train"):
        make_optimizer(nn.Linear(3, 2), OptimizerConfig(name="adafactor"))


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'adamw'"):
        make_optimizer(nn.Linear(3, 2), OptimizerConfig(name="adamv"))


def test_the_registry_names_both() -> None:
    assert {"adamw", "adafactor"} <= set(OPTIMIZERS.names())


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"lr": 0.0}, "lr must be above 0"),
        ({"eps": -1.0}, "eps must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"betas": (0.9, 1.0)}, "betas must be"),
        ({"beta2_cap": 1.5}, "beta2_cap must be"),
        ({"clipping_threshold": 0.0}, "clipping_threshold"),
    ],
)
def test_a_setting_out_of_range_is_told(setting: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        OptimizerConfig(**setting)
