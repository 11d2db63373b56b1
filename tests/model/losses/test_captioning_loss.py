import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.losses.captioning_loss import captioning_loss, classification_loss


@given(
    positions=st.integers(1, 40),
    chunk=st.integers(1, 50),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_chunks_change_neither_the_captioning_loss_nor_its_gradients(
    positions: int, chunk: int, smoothing: float
) -> None:
    generator = torch.Generator().manual_seed(positions)
    states = torch.randn(positions, 8, generator=generator, requires_grad=True)
    weight = torch.randn(30, 8, generator=generator, requires_grad=True)
    targets = torch.randint(30, (positions,), generator=generator)
    ours = captioning_loss(states, targets, weight, chunk_size=chunk, label_smoothing=smoothing)
    plain = F.cross_entropy(F.linear(states, weight), targets, label_smoothing=smoothing)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    # An upstream factor other than 1, as the loss weight gives.
    for mine, theirs in zip(
        torch.autograd.grad(2 * ours, (states, weight)),
        torch.autograd.grad(2 * plain, (states, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_parts_with_the_weight_of_the_whole_add_up_to_its_mean() -> None:
    states, weight = torch.randn(10, 8), torch.randn(30, 8, requires_grad=True)
    targets, each = torch.randint(30, (10,)), torch.tensor(1 / 10)
    first = captioning_loss(states[:3], targets[:3], weight, token_weight=each)
    second = captioning_loss(states[3:], targets[3:], weight, token_weight=each)
    whole = captioning_loss(states, targets, weight)
    torch.testing.assert_close(first + second, whole)
    (ours,) = torch.autograd.grad(first + second, weight)
    torch.testing.assert_close(ours, torch.autograd.grad(whole, weight)[0])


def test_images_in_parts_add_up_to_the_mean_of_all() -> None:
    logits, classes = torch.randn(5, 4), torch.tensor([2, 0, 3, 1, 1])
    parts = [
        classification_loss(logits[rows], classes[rows], image_weight=torch.tensor(1 / 5))
        for rows in (slice(2), slice(2, 5))
    ]
    torch.testing.assert_close(sum(parts), classification_loss(logits, classes))


def test_a_frozen_vocabulary_still_passes_the_gradient_to_the_states() -> None:
    states = torch.randn(6, 4, requires_grad=True)
    weight, targets = torch.randn(9, 4), torch.randint(9, (6,))
    captioning_loss(states, targets, weight).backward()
    reference = states.detach().requires_grad_()
    F.cross_entropy(F.linear(reference, weight), targets).backward()
    torch.testing.assert_close(states.grad, reference.grad)


def test_a_batch_without_real_positions_costs_nothing_and_stays_finite() -> None:
    states = torch.zeros(0, 4, requires_grad=True)
    loss = captioning_loss(states, torch.zeros(0, dtype=torch.int64), torch.randn(9, 4))
    loss.backward()
    assert loss.item() == 0


def test_the_captioning_loss_works_under_bf16_autocast() -> None:
    states, weight = torch.randn(20, 16), torch.randn(50, 16)
    targets = torch.randint(50, (20,))
    exact = F.cross_entropy(F.linear(states, weight), targets)
    states.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = captioning_loss(states, targets, weight)
    loss.backward()
    # bf16 keeps 8 bits: a relative error of 2^-8 per logit.
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_one_hot_multi_hot_and_smoothed_targets_follow_one_rule() -> None:
    logits = torch.randn(3, 4)
    classes = torch.tensor([2, 0, 3])
    index = classification_loss(logits, classes)
    one_hot = F.one_hot(classes, 4).float()
    torch.testing.assert_close(classification_loss(logits, one_hot), index)
    multi = torch.tensor([[1.0, 1, 0, 0]] * 3)
    expected = -F.log_softmax(logits, dim=1)[:, :2].mean(dim=1).mean()
    torch.testing.assert_close(classification_loss(logits, multi), expected)
    smoothed = 0.9 * one_hot + 0.1 / 4
    torch.testing.assert_close(
        classification_loss(logits, smoothed),
        classification_loss(logits, classes, label_smoothing=0.1),
    )


@pytest.mark.parametrize("row", [[0.0, 0.0], [1.0, -1.0]])
def test_class_weights_without_meaning_are_refused(row: list[float]) -> None:
    with pytest.raises(ConfigError, match="positive sum"):
        classification_loss(torch.randn(1, 2), torch.tensor([row]))
