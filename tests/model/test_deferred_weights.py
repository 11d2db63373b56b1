import pytest
import torch
from torch import nn

from coca.model.coca_config import CoCaConfig, HeadConfig
from coca.model.deferred_weights import WeightsRecorder
from coca.model.pretrained import build
from tiny import seed_weights, tiny_config


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(initial_bias=-10.0, head=HeadConfig(classes=("cat", "dog"), heads=2)),
    ],
)
def test_weights_computed_one_by_one_equal_those_of_a_model_that_is_built_at_once(
    config: CoCaConfig,
) -> None:
    seed_weights()
    usual = build(config)
    number = torch.rand(())
    seed_weights()
    with WeightsRecorder() as recorder:
        model = build(config)
    # The random generator is where it would be, and computing a weight does not move it.
    weights = recorder.weights_of(model)
    computed = {name: weights.compute(name, t) for name, t in model.named_parameters()}
    assert torch.equal(torch.rand(()), number)
    assert all(parameter.is_meta for parameter in model.parameters())
    expected = dict(usual.named_parameters())
    assert computed.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(computed[name], weight), name


def test_tensors_that_were_created_with_values_are_recorded() -> None:
    class Buffers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

    with WeightsRecorder() as recorder:
        model = Buffers()
    weights, expected = recorder.weights_of(model), Buffers()
    for name, tensor in [*expected.named_parameters(), *expected.named_buffers()]:
        assert torch.equal(weights.compute(name, tensor), tensor.detach()), name


def test_an_operation_that_cannot_be_computed_again_is_refused() -> None:
    with WeightsRecorder(), pytest.raises(AssertionError, match="cannot be recorded"):
        torch.empty(3).copy_(torch.ones(3))
