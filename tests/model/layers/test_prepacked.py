"""Fused convolutions: equal results, and never stale weights."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from coca.model.encoders.efficientnet import EfficientNetLite
from coca.model.layers import prepacked
from coca.model.layers.prepacked import SameConv, conv_norm, fuse_convs

pytestmark = pytest.mark.skipif(
    not prepacked._can_fuse(torch.float32), reason="no oneDNN in this torch"
)


class Pair(nn.Module):
    """A convolution and its batch norm."""

    def __init__(self, groups: int = 1, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = SameConv(8, 16, kernel, stride=stride, groups=groups)
        self.norm = nn.BatchNorm2d(16)
        with torch.no_grad():
            mean, var = self.norm.running_mean, self.norm.running_var
            assert mean is not None
            assert var is not None
            for tensor in (self.norm.weight, var):
                tensor.uniform_(0.5, 2)
            for tensor in (self.norm.bias, mean):
                tensor.normal_()

    def forward(self, images: Tensor) -> Tensor:
        return conv_norm(self.conv, self.norm, images, relu6=True)


@pytest.fixture
def pair() -> Pair:
    torch.manual_seed(0)
    pair = Pair().eval()
    fuse_convs(pair)
    return pair


def plain(pair: Pair, images: Tensor) -> Tensor:
    return nn.functional.relu6(pair.norm(pair.conv(images)))


def is_used(pair: Pair, monkeypatch: pytest.MonkeyPatch, images: Tensor) -> bool:
    """Whether the result comes from the fused copy; a batch norm of its own raises."""

    def fail(*_: object) -> Tensor:
        raise AssertionError

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(pair.norm, "forward", fail)
        try:
            pair(images)
        except AssertionError:
            return False
    return True


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("shape", [(1, 7, 9), (2, 10, 7), (3, 16, 16)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_fused_convolution_gives_the_plain_result(
    groups: int,
    kernel: int,
    stride: int,
    shape: tuple[int, ...],
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    pair = Pair(groups, kernel, stride).eval()
    fuse_convs(pair)
    images = torch.randn(shape[0], 8, *shape[1:]).contiguous(memory_format=layout)
    assert is_used(pair, monkeypatch, images)
    with torch.inference_mode():
        torch.testing.assert_close(pair(images), plain(pair, images), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not prepacked._can_fuse(torch.bfloat16), reason="no bf16 in this oneDNN")
def test_in_bf16_the_result_is_close_to_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    pair = Pair().eval()
    images = torch.randn(2, 8, 16, 16)
    exact = plain(pair, images)
    fuse_convs(pair.bfloat16())
    assert is_used(pair, monkeypatch, images.bfloat16())
    with torch.no_grad():
        torch.testing.assert_close(pair(images.bfloat16()).float(), exact, rtol=0.03, atol=0.05)


def learn(pair: Pair) -> None:
    optimizer = torch.optim.AdamW(pair.parameters(), lr=0.1)
    pair(torch.randn(2, 8, 4, 4)).square().sum().backward()
    optimizer.step()


def learn_statistics(pair: Pair) -> None:
    pair.train()(5 + torch.randn(2, 8, 4, 4))
    pair.eval()


def load(pair: Pair) -> None:
    pair.load_state_dict({name: 2 * it for name, it in pair.state_dict().items()})


def replace(pair: Pair) -> None:
    pair.conv.weight = nn.Parameter(torch.randn_like(pair.conv.weight))


def there_and_back(pair: Pair) -> None:
    with torch.no_grad():
        pair.conv.weight.add_(1)
    pair.bfloat16().float()


@pytest.mark.parametrize("change", [learn, learn_statistics, load, replace, there_and_back])
def test_changed_weights_are_used(pair: Pair, change: Callable[[Pair], None]) -> None:
    images = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        before = pair(images)
    change(pair)
    with torch.no_grad():
        assert not torch.equal(pair(images), before)
        torch.testing.assert_close(pair(images), plain(pair, images), rtol=1e-4, atol=1e-4)


def test_training_and_gradients_use_the_plain_operations(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randn(2, 8, 6, 6)
    assert not is_used(pair.train(), monkeypatch, images)
    pair.eval()
    pair(images).sum().backward()
    assert pair.conv.weight.grad is not None


def test_a_copied_or_pickled_model_gives_the_same_result(pair: Pair) -> None:
    images = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        expected = pair(images)
        for other in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
            assert torch.equal(other(images), expected)


def test_the_encoder_gives_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = EfficientNetLite("lite0", 0).eval()
    images = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = network.forward_features(images)
        fuse_convs(network)
        monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda *_: 1 / 0)
        torch.testing.assert_close(network.forward_features(images), expected, rtol=1e-3, atol=1e-4)
