import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from coca.model.layers.packing import Packing
from coca.model.layers.transformer import SelfAttention, attend


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_trained_in_bf16_on_a_cpu_equals_the_fused_kernel(
    causal: bool, masked: bool
) -> None:
    queries, keys, values = (
        drawn(2, 3, 9, 8, seed=seed).bfloat16().requires_grad_() for seed in range(3)
    )
    mask = drawn(2, 1, 9, 9, seed=4) > -0.5 if masked else None
    if mask is not None:
        mask[..., 0] = True
    plain = attend(queries, keys, values, mask=mask, causal=causal)
    fused = F.scaled_dot_product_attention(
        queries.detach().float(),
        keys.detach().float(),
        values.detach().float(),
        attn_mask=mask,
        is_causal=causal and mask is None,
    )
    # bf16 keeps eight bits.
    torch.testing.assert_close(plain.float(), fused, rtol=0, atol=0.03)


@pytest.mark.parametrize("key_bias", [True, False])
def test_packed_self_attention_equals_that_of_each_caption_alone(key_bias: bool) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(24, 3, key_bias=key_bias)
    with torch.no_grad():
        for weight in attention.parameters():
            weight.normal_()
    lengths = [5, 2, 40, 7]
    packing = Packing.of(torch.tensor(lengths))
    rows = drawn(sum(packing.sizes), 24, seed=1)
    packed = attention(rows, causal=True, packing=packing)
    for start, length in zip(packing.offsets.tolist(), lengths, strict=True):
        own = slice(start, start + length)
        alone = attention(rows[None, own], causal=True)[0]
        torch.testing.assert_close(packed[own], alone, rtol=1e-5, atol=1e-4)
