import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from coca.model.layers.latent_attention import latent_attention, to_autocast_dtype
from coca.model.layers.packing import Packing
from coca.model.layers.transformer import CrossAttention

LENGTHS = [6, 2, 9, 3, 30]
WIDTH, CONTEXT_WIDTH, HEADS, SEEN = 24, 20, 3, 7


@pytest.fixture
def packing() -> Packing:
    return Packing.of(torch.tensor(LENGTHS))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def rows(packing: Packing) -> Tensor:
    return drawn(sum(packing.sizes), WIDTH, seed=0).requires_grad_()


@pytest.fixture
def context() -> Tensor:
    return drawn(len(LENGTHS), SEEN, CONTEXT_WIDTH, seed=1).requires_grad_()


def assert_near(one: Tensor, other: Tensor) -> None:
    # fp32 sums of some hundred terms in another order, relative to the largest number.
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.detach().abs().max()))


def projected(queries: Tensor, context: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Compute standard cross-attention, for one caption and its image."""
    split = (
        part.unflatten(1, (HEADS, -1)).transpose(0, 1)[None]
        for part in (queries, context @ keys.T, context @ values.T)
    )
    return F.scaled_dot_product_attention(*split)[0].transpose(0, 1).flatten(1)


def test_latent_attention_equals_standard_attention_with_every_gradient(
    packing: Packing, rows: Tensor, context: Tensor
) -> None:
    keys = drawn(WIDTH, CONTEXT_WIDTH, seed=2).requires_grad_()
    values = drawn(WIDTH, CONTEXT_WIDTH, seed=3).requires_grad_()
    inputs = (rows, context, keys, values)
    upstream = drawn(len(rows), WIDTH, seed=4)
    found = latent_attention(rows, context, keys, values, heads=HEADS, packing=packing)
    plain = torch.cat(
        [
            projected(part, image, keys, values)
            for rectangle, images in zip(
                packing.split(rows), packing.split_by_bucket([context]), strict=True
            )
            for part, image in zip(rectangle, images[0], strict=True)
        ]
    )
    assert_near(found, plain)
    for one, other in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(plain, inputs, upstream),
        strict=True,
    ):
        assert_near(one, other)


@pytest.mark.parametrize("key_bias", [True, False])
def test_packed_cross_attention_equals_the_padded_one(
    packing: Packing, rows: Tensor, context: Tensor, key_bias: bool
) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(WIDTH, CONTEXT_WIDTH, HEADS, key_bias=key_bias)
    with torch.no_grad():
        for weight in attention.parameters():
            weight.normal_(std=0.3)
    ordered = context[packing.order]
    packed = attention(rows, ordered, packing=packing)
    padded = [
        attention(part, attention.project(*images))
        for part, images in zip(
            packing.split(rows), packing.split_by_bucket([ordered]), strict=True
        )
    ]
    assert_near(packed, packing.join(padded))


def test_gain_and_shift_of_a_norm_can_be_applied_in_the_attention(
    packing: Packing, rows: Tensor, context: Tensor
) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(WIDTH, CONTEXT_WIDTH, HEADS)
    norm = nn.LayerNorm(CONTEXT_WIDTH)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    later = attention(rows, F.layer_norm(context, (CONTEXT_WIDTH,)), packing=packing, norm=norm)
    torch.testing.assert_close(
        later, attention(rows, norm(context), packing=packing), rtol=1e-5, atol=1e-5
    )


def test_autocast_casts_the_context_once_and_gives_nearly_the_same(
    packing: Packing, rows: Tensor, context: Tensor
) -> None:
    assert to_autocast_dtype(context) is context
    attention = CrossAttention(WIDTH, CONTEXT_WIDTH, HEADS)
    exact = attention(rows, context, packing=packing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = to_autocast_dtype(context)
        assert seen.dtype == torch.bfloat16
        half = attention(rows, seen, packing=packing)
    half.float().sum().backward()
    assert rows.grad is not None
    assert F.cosine_similarity(exact, half.float()).min() > 0.999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_read_as_well(
    packing: Packing, rows: Tensor, context: Tensor, dtype: torch.dtype
) -> None:
    attention = CrossAttention(WIDTH, CONTEXT_WIDTH, HEADS)
    exact = attention(rows, context, packing=packing)
    half = copy.deepcopy(attention).to(dtype)(
        rows.detach().to(dtype), context.detach().to(dtype), packing=packing
    )
    assert F.cosine_similarity(exact, half.float()).min() > 0.999


@pytest.mark.parametrize("length", [1, 4, 5, 30])
def test_a_bucket_takes_the_cheaper_way_for_its_length(length: int) -> None:
    packing = Packing.of(torch.tensor([length]))
    inputs = (drawn(length, WIDTH, seed=0), drawn(1, SEEN, CONTEXT_WIDTH, seed=1))
    maps = (drawn(WIDTH, CONTEXT_WIDTH, seed=2), drawn(WIDTH, CONTEXT_WIDTH, seed=3))
    with FlopCounterMode(display=False) as counter:
        latent_attention(*inputs, *maps, heads=HEADS, packing=packing)
    latent = 2 * length * (WIDTH * CONTEXT_WIDTH + HEADS * SEEN * CONTEXT_WIDTH)
    plain = 2 * SEEN * WIDTH * (CONTEXT_WIDTH + length)
    # A product is a multiplication and an addition; those of fused attention are not counted.
    assert counter.get_total_flops() <= 2 * min(latent, plain)
