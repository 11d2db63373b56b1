from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from coca.model.losses.contrastive_loss import contrastive_loss, sigmoid_loss
from minimal_example import minimal_coca
from tiny_ranks import plain_sigmoid_loss

BOTH = pytest.mark.parametrize(
    ("blocked", "plain", "numbers"),
    [
        (contrastive_loss, minimal_coca.contrastive_loss, (14.0,)),
        (sigmoid_loss, plain_sigmoid_loss, (10.0, -10.0)),
    ],
    ids=["softmax", "sigmoid"],
)


def unit(rows: int, seed: int, width: int = 6) -> Tensor:
    raw = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return F.normalize(raw, dim=1).requires_grad_()


def learned(*values: float) -> list[Tensor]:
    return [torch.tensor(value, requires_grad=True) for value in values]


def assert_same(
    ours: Tensor, reference: Tensor, leaves: Sequence[Tensor], *, rtol: float = 1e-6
) -> None:
    """Assert equal values and gradients of each leaf, relative to their norm."""
    torch.testing.assert_close(ours, reference.to(ours.dtype), rtol=rtol, atol=1e-6)
    # An upstream factor other than 1, as the loss weight gives.
    for mine, theirs in zip(
        torch.autograd.grad(3 * ours, leaves),
        torch.autograd.grad(3 * reference, leaves),
        strict=True,
    ):
        assert (mine - theirs).norm() <= rtol * theirs.norm() + 1e-6


def test_the_softmax_loss_equals_the_equation_of_the_paper() -> None:
    image, text, (scale,) = unit(5, 0), unit(5, 1), learned(14.0)
    total = torch.zeros(())
    for i in range(5):
        to_texts = torch.stack([image[i] @ text[j] * scale for j in range(5)])
        to_images = torch.stack([text[i] @ image[j] * scale for j in range(5)])
        total = total - (to_texts[i] - to_texts.logsumexp(0)) / 5
        total = total - (to_images[i] - to_images.logsumexp(0)) / 5
    assert_same(contrastive_loss(image, text, scale).loss, total, (image, text, scale))


def test_the_sigmoid_loss_equals_the_equation_of_its_source() -> None:
    image, text, (scale, bias) = unit(5, 0), unit(5, 1), learned(10.0, -3.0)
    total = torch.zeros(())
    for i in range(5):
        for j in range(5):
            belongs = 1 if i == j else -1
            logit = scale * (image[i] @ text[j]) + bias
            total = total - (1 / (1 + (-belongs * logit).exp())).log() / 5
    assert_same(sigmoid_loss(image, text, scale, bias).loss, total, (image, text, scale, bias))


@BOTH
@given(pairs=st.integers(1, 40), rows=st.integers(1, 50), scale=st.sampled_from([1.0, 10.0, 100.0]))
def test_blocks_change_neither_a_loss_nor_its_gradients(
    blocked: Callable[..., Any],
    plain: Callable[..., Tensor],
    numbers: tuple[float, ...],
    pairs: int,
    rows: int,
    scale: float,
) -> None:
    leaves = [unit(pairs, pairs), unit(pairs, pairs + 1), *learned(scale, *numbers[1:])]
    # Cosines times 100 have an absolute error of 1e-5 in fp32.
    assert_same(blocked(*leaves, block_rows=rows).loss, plain(*leaves), leaves, rtol=2e-5)


def test_a_caption_far_from_every_image_stays_exact() -> None:
    # Compared with their row's maximum, all similarities of the last caption vanish in fp32.
    image = F.normalize(torch.eye(4, 6), dim=1)
    text = image.clone()
    text[3] = -F.normalize(torch.ones(6), dim=0)
    leaves = [image.requires_grad_(), text.requires_grad_(), *learned(100.0)]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours = contrastive_loss(*leaves, block_rows=2).loss
    plain = minimal_coca.contrastive_loss(*exact)
    torch.testing.assert_close(ours, plain.float(), rtol=1e-6, atol=0)
    for mine, theirs in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(plain, exact), strict=True
    ):
        torch.testing.assert_close(mine, theirs.float(), rtol=1e-5, atol=1e-5)


def test_mean_is_half_of_sum_and_so_are_its_gradients() -> None:
    leaves = [unit(4, 0), unit(4, 1), *learned(10.0)]
    mean = contrastive_loss(*leaves, reduction="mean").loss
    assert_same(mean, contrastive_loss(*leaves).loss / 2, leaves)


@BOTH
def test_the_order_of_pairs_and_the_side_do_not_matter(
    blocked: Callable[..., Any], plain: Callable[..., Tensor], numbers: tuple[float, ...]
) -> None:
    image, text, order = unit(4, 0), unit(4, 1), torch.tensor([2, 0, 3, 1])
    settings = learned(*numbers)
    loss = blocked(image, text, *settings).loss
    torch.testing.assert_close(blocked(text, image, *settings).loss, loss)
    torch.testing.assert_close(blocked(image[order], text[order], *settings).loss, loss)


@BOTH
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(
    blocked: Callable[..., Any], plain: Callable[..., Tensor], numbers: tuple[float, ...]
) -> None:
    image, text, settings = unit(7, 0), unit(7, 1), learned(*numbers)
    everything = torch.autograd.grad(blocked(image, text, *settings, block_rows=3).loss, image)
    frozen = [tensor.detach() for tensor in (text, *settings)]
    blocked(image, *frozen, block_rows=3).loss.backward()
    torch.testing.assert_close(image.grad, everything[0])
    assert all(tensor.grad is None for tensor in frozen)
    with torch.no_grad():
        assert not blocked(image, text, *settings).loss.requires_grad


@BOTH
def test_half_precision_embeddings_are_compared_in_full_precision(
    blocked: Callable[..., Any], plain: Callable[..., Tensor], numbers: tuple[float, ...]
) -> None:
    halves = [unit(9, seed).detach().bfloat16().requires_grad_() for seed in (0, 1)]
    settings = learned(*numbers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = blocked(*halves, *settings, block_rows=4).loss
    reference = plain(*(half.float() for half in halves), *settings)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    assert halves[0].grad is not None
    assert halves[0].grad.dtype == torch.bfloat16


@BOTH
@pytest.mark.parametrize("rows", [4, 30])
def test_accuracy_is_the_fraction_of_images_nearest_to_their_own_caption(
    blocked: Callable[..., Any],
    plain: Callable[..., Tensor],
    numbers: tuple[float, ...],
    rows: int,
) -> None:
    image, settings = unit(30, 0), learned(*numbers)
    text = F.normalize(image + 1.5 * unit(30, 1), dim=1)
    expected = ((image @ text.T).argmax(dim=1) == torch.arange(30)).float().mean()
    assert 0.1 < expected < 0.9
    found = blocked(image, text, *settings, block_rows=rows).image_to_text
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    # A model that maps everything to one point is at chance; ties must not raise its accuracy.
    point = image[:1].expand(30, -1)
    assert blocked(point, point, *settings, block_rows=rows).image_to_text == pytest.approx(1 / 30)


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements of any operation's result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // 4)
        return result


@BOTH
def test_no_tensor_is_larger_than_a_block(
    blocked: Callable[..., Any], plain: Callable[..., Tensor], numbers: tuple[float, ...]
) -> None:
    leaves = [unit(64, 0), unit(64, 1), *learned(*numbers)]
    with LargestTensor() as largest:
        plain(*leaves).backward()
    assert largest.numbers >= 64 * 64
    with LargestTensor() as largest:
        blocked(*leaves, block_rows=8).loss.backward()
    assert 8 * 64 <= largest.numbers < 2 * 8 * 64
