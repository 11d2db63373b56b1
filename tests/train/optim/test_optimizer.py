from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from coca.model.coca import CoCa
from coca.model.coca_config import HeadConfig
from coca.model.lora import LoraConfig, add_lora_
from coca.model.pretrained import build
from coca.train.optim.optimizer import OptimizerConfig, for_adapters, make_optimizer
from coca.train.optim.param_groups import GroupConfig
from tiny import tiny_config


def step_once(model: nn.Module, optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> None:
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()


def test_adamw_takes_the_step_of_its_paper_and_biases_do_not_decay() -> None:
    model = nn.Linear(3, 2)
    before, bias = (parameter.detach().clone() for parameter in model.parameters())
    gradients = [torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.ones(2)]
    config = OptimizerConfig(lr=0.01, weight_decay=0.1)
    step_once(model, make_optimizer(model, config), gradients)
    # After one step the two averages, both corrected for their start at 0, are g and g^2.
    g = gradients[0]
    expected = before * (1 - 0.01 * 0.1) - 0.01 * g / (g.abs() + 1e-8)
    torch.testing.assert_close(model.weight.detach(), expected)
    torch.testing.assert_close(model.bias.detach(), bias - 0.01)


def adafactor_by_hand(
    weight: Tensor, gradients: list[Tensor], config: OptimizerConfig, *, factored: bool
) -> Iterator[Tensor]:
    """The weight after each step of "Scaling Vision Transformers", section 3.4, as plain code.

    Factored, the second moment of an entry is the mean of its row times that of its column, over
    the mean of all: three numbers of the two longest axes, here always the last two.
    """
    second = rows = columns = torch.zeros(())
    momentum = torch.zeros(weight.shape)
    for step, g in enumerate(gradients, start=1):
        memory = min(config.beta2_cap, 1 - step**-0.8)
        square = g * g + 1e-30
        if factored:
            rows = memory * rows + (1 - memory) * square.mean(-1, keepdim=True)
            columns = memory * columns + (1 - memory) * square.mean(-2, keepdim=True)
            second = rows * columns / rows.mean(-2, keepdim=True)
        else:
            second = memory * second + (1 - memory) * square
        update = g / second.sqrt()
        if config.clipping_threshold is not None:
            update = update / max(
                1.0, float(update.square().mean().sqrt()) / config.clipping_threshold
            )
        momentum = config.betas[0] * momentum + (1 - config.betas[0]) * update
        if config.momentum_dtype == "bfloat16":
            momentum = momentum.bfloat16().float()
        # Decoupled from the gradient; no scaling of the step by the size of the weight.
        weight = weight * (1 - config.lr * config.weight_decay) - config.lr * momentum
        yield weight


class Tensors(nn.Module):
    """One parameter of a given shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))


@pytest.mark.parametrize("clipping", [None, 0.9])
@pytest.mark.parametrize(
    ("shape", "factored"),
    [
        ((40, 48), True),
        ((48, 40), True),
        ((32, 32), True),
        ((31, 200), False),
        ((4, 33, 40), True),
        ((2, 3, 32, 36), True),
        ((40,), False),
        ((), False),
    ],
)
def test_adafactor_takes_the_steps_of_a_plain_reference(
    shape: tuple[int, ...], factored: bool, clipping: float | None
) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = Tensors(*shape)
    config = OptimizerConfig(
        name="adafactor",
        lr=0.01,
        weight_decay=0.1 if len(shape) > 1 else 0.0,
        beta2_cap=0.6,  # reached at step 4, so that both sides of the cap are seen
        clipping_threshold=clipping,
        momentum_dtype="float32",
    )
    optimizer = make_optimizer(model, config)
    gradients = [torch.randn(shape) * 10.0**-step for step in range(6)]
    start = model.weight.detach().clone()
    for g, expected in zip(
        gradients, adafactor_by_hand(start, gradients, config, factored=factored), strict=True
    ):
        step_once(model, optimizer, [g])
        torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-5, atol=1e-7)
    kept = {name for name in optimizer.state[model.weight] if name.startswith("exp_avg_sq")}
    assert kept == ({"exp_avg_sq_r", "exp_avg_sq_c"} if factored else {"exp_avg_sq"})


def test_adafactor_in_the_papers_form_keeps_its_momentum_in_half_precision() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = Tensors(40, 48)
    start = model.weight.detach().clone()
    config = OptimizerConfig(name="adafactor", lr=8e-4, weight_decay=0.01, clipping_threshold=None)
    optimizer = make_optimizer(model, config)
    gradients = [torch.randn(40, 48) for _ in range(5)]
    for g, expected in zip(
        gradients, adafactor_by_hand(start, gradients, config, factored=True), strict=True
    ):
        step_once(model, optimizer, [g])
        # The update is rounded before it is added, too: half a bit of eight each, of updates
        # whose sizes are about one, times the learning rate.
        torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=8e-4 * 2**-6)
    assert optimizer.state[model.weight]["exp_avg"].dtype == torch.bfloat16
    assert float((model.weight.detach() - start).abs().max()) > 8e-4


def test_a_group_steps_at_its_own_rate_from_the_start() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    config = OptimizerConfig(
        lr=0.1, weight_decay=0.0, groups=(GroupConfig(match="1", lr_scale=0.1),)
    )
    step_once(model, make_optimizer(model, config), [torch.ones(2, 3), torch.ones(1, 2)])
    # AdamW's first step has the length of the learning rate.
    for parameter, old, length in zip(model.parameters(), before, (0.1, 0.01), strict=True):
        torch.testing.assert_close(parameter.detach(), old - length)


@pytest.mark.parametrize("name", ["muon", "adafactor", "adamw"])
def test_adapters_have_adamw_and_a_rate_of_their_own(name: str) -> None:
    model = build(tiny_config(head=HeadConfig(classes=("a", "b"))))
    add_lora_(model, LoraConfig())
    config = OptimizerConfig(name=name, lr=2e-3, weight_decay=0.2)
    optimizer = make_optimizer(model, for_adapters(config, LoraConfig(lr=5e-3), head=True))
    assert isinstance(optimizer, torch.optim.AdamW)
    head = {id(parameter) for parameter in model.get_submodule("head").parameters()}
    for group in optimizer.param_groups:
        of_head = {id(parameter) in head for parameter in group["params"]}
        assert len(of_head) == 1
        assert group["lr"] == pytest.approx(2e-3 if of_head.pop() else 5e-3)
        assert group["lr"] == pytest.approx(2e-3) or group["weight_decay"] == 0
    # Without a head all that learns has the adapters' rate.
    plain = CoCa(tiny_config())
    add_lora_(plain, LoraConfig())
    alone = make_optimizer(plain, for_adapters(config, LoraConfig(lr=5e-3), head=False))
    assert all(group["lr"] == pytest.approx(5e-3) for group in alone.param_groups)


def test_muon_moves_a_matrix_of_a_layer_by_an_orthogonal_step() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 48, bias=False)
    optimizer = make_optimizer(layer, OptimizerConfig(name="muon", lr=0.1, weight_decay=0.0))
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(48, 24) * torch.logspace(0, -1, 24)
    optimizer.step()
    # The size of AdamW's update: 0.2 in the mean of an orthogonal matrix's entries.
    step = (before - layer.weight.detach()) / (0.1 * 0.2 * 48**0.5)
    sizes = torch.linalg.svdvals(step)
    # Its polynomial stops at about one: 0.7 to 1.2, in half precision slightly outside.
    assert sizes.min() > 0.6
    assert sizes.max() < 1.3
    assert (step * layer.weight.grad).sum() > 0


def test_muon_leaves_tables_positions_and_vectors_to_adam() -> None:
    model = CoCa(tiny_config())
    optimizer = make_optimizer(model, OptimizerConfig(name="muon"))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    by_muon = {n for n, p in model.named_parameters() if "momentum_buffer" in optimizer.state[p]}
    assert "image_encoder.blocks.0.mlp.up.weight" in by_muon
    assert "unimodal_decoder.token_embedding.weight" not in by_muon
    assert not {n for n in by_muon if n.endswith(("positions", "queries", "bias", "log_scale"))}
    assert all(model.get_parameter(name).ndim == 2 for name in by_muon)
