"""Prepacked weights: equal products, and never stale weights."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.layers import prepacked
from coca.model.layers.prepacked import linear, prepack_weights
from coca.model.layers.transformer import Linear
from coca.model.lora import LoraConfig, add_lora_

pytestmark = pytest.mark.skipif(
    not prepacked._can_prepack(torch.float32), reason="no oneDNN in this torch"
)


@pytest.fixture
def layer() -> Linear:
    torch.manual_seed(0)
    layer = Linear(48, 80)
    prepack_weights(layer)
    return layer


def used(layer: Linear, monkeypatch: pytest.MonkeyPatch, inputs: Tensor) -> bool:
    """Whether the product uses the prepacked copy; plain products raise in between."""

    def fail(*_: object) -> Tensor:
        raise AssertionError

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(F, "linear", fail)
        try:
            layer(inputs)
        except AssertionError:
            return False
    return True


@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (3, 5, 48), (200, 48), (2, 3, 4, 48)])
def test_a_prepacked_layer_gives_the_plain_product(
    layer: Linear, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = torch.randn(shape)
    other = torch.randn(80)
    assert used(layer, monkeypatch, inputs)
    with torch.inference_mode():
        plain = F.linear(inputs, layer.weight, layer.bias)
        torch.testing.assert_close(layer(inputs), plain, rtol=1e-5, atol=1e-6)
        plain = F.linear(inputs, layer.weight, other)
        torch.testing.assert_close(layer(inputs, other), plain, rtol=1e-5, atol=1e-6)
        plain = F.linear(inputs, layer.weight)
        torch.testing.assert_close(linear(inputs, layer.weight), plain, rtol=1e-5, atol=1e-6)


def test_inputs_need_not_be_contiguous_nor_there_at_all(layer: Linear) -> None:
    inputs = torch.randn(48, 6).t()
    with torch.no_grad():
        torch.testing.assert_close(layer(inputs), F.linear(inputs, layer.weight, layer.bias))
        assert layer(inputs[:0]).shape == (0, 80)


@pytest.mark.skipif(not prepacked._can_prepack(torch.bfloat16), reason="no bf16 in this oneDNN")
def test_in_bf16_the_result_is_that_of_fp32_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = Linear(48, 80).bfloat16()
    prepack_weights(layer)
    inputs = torch.randn(9, 48).bfloat16()
    assert used(layer, monkeypatch, inputs)
    with torch.no_grad():
        exact = F.linear(inputs.double(), layer.weight.double(), layer.bias.double())
        torch.testing.assert_close(layer(inputs).double(), exact, rtol=2**-8, atol=1e-3)


def add_in_place(layer: Linear) -> None:
    with torch.no_grad():
        layer.weight.add_(1)


def load(layer: Linear) -> None:
    layer.load_state_dict({name: 2 * it for name, it in layer.state_dict().items()})


def learn(layer: Linear) -> None:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.randn(2, 48)).square().sum().backward()
    optimizer.step()


def swap(layer: Linear) -> None:
    layer.weight.data = torch.randn(80, 48)


def write_data(layer: Linear) -> None:
    layer.weight.data.mul_(2)


def copy_data(layer: Linear) -> None:
    layer.weight.data.copy_(torch.randn(80, 48))


def there_and_back(layer: Linear) -> None:
    for _ in range(4):  # the allocator hands out the same memory again and again
        layer.bfloat16().float()


def replace(layer: Linear) -> None:
    layer.weight = nn.Parameter(torch.randn(80, 48))


CHANGES = [add_in_place, load, learn, swap, write_data, copy_data, there_and_back, replace]


@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_that_has_changed_is_never_taken_from_its_copy(
    layer: Linear, change: Callable[[Linear], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = torch.randn(4, 48)
    change(layer)
    assert not used(layer, monkeypatch, inputs)
    assert type(layer.weight) is nn.Parameter  # the memory of the copy is free again
    with torch.no_grad():
        assert torch.equal(layer(inputs), F.linear(inputs, layer.weight, layer.bias))
    prepack_weights(layer)
    assert used(layer, monkeypatch, inputs)


def test_reading_a_weight_keeps_its_copy(layer: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    layer.state_dict()
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.detach().sum() == sum(it.sum() for it in layer.weight)
    assert used(layer, monkeypatch, torch.randn(4, 48))


def test_a_pickled_or_copied_layer_goes_without(
    layer: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = torch.randn(4, 48)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert used(layer, monkeypatch, inputs)
        assert not used(other, monkeypatch, inputs)
        assert type(other.weight) is nn.Parameter
        with torch.no_grad():
            torch.testing.assert_close(other(inputs), layer(inputs))


def test_gradients_are_those_of_a_plain_layer(layer: Linear) -> None:
    inputs = torch.randn(4, 48, requires_grad=True)
    layer(inputs).square().sum().backward()
    assert inputs.grad is not None
    assert layer.weight.grad is not None


def test_other_precisions_and_autocast_are_left_to_torch(
    layer: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not used(layer.double(), monkeypatch, torch.randn(4, 48).double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not used(layer.float(), monkeypatch, torch.randn(4, 48))


def test_an_adapter_of_the_weight_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.ModuleDict({"layer": Linear(48, 80)})
    prepack_weights(model)
    add_lora_(model, LoraConfig(match=("layer",), rank=2))
    layer = model["layer"]
    assert isinstance(layer, Linear)
    prepack_weights(model)
    assert not used(layer, monkeypatch, torch.randn(4, 48))
