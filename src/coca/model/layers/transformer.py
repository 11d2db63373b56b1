"""Transformer layers of both towers: attention, MLP, pre-norm blocks, and their initialization.

Dimensions: B batch, L tokens, S tokens attended to, D width, C width of the attended tokens, H
heads, E shared embedding, N output width.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.layers.kv_cache import AttentionState
from coca.model.layers.latent_attention import latent_attention
from coca.model.layers.packing import Packing


class Linear(nn.Linear):
    """A linear layer, W x + b, with an optional bias of each call.

    Attention without key biases joins the biases of queries and values in each call. For CPU
    inference, `coca.model.layers.prepacked` gives a layer a second copy of its weight.
    """

    def forward(
        self, inputs: Float[Tensor, "*B D"], bias: Float[Tensor, " N"] | None = None
    ) -> Float[Tensor, "*B N"]:
        """Compute W x + b; `bias` replaces the layer's own bias."""
        return F.linear(inputs, self.weight, self.bias if bias is None else bias)


# Weight initialization of all captioners, as in CLIP; the paper does not state any.


@torch.no_grad()
def init_linears_(model: nn.Module) -> None:
    """Initialize each linear layer: normal with variance 1 / inputs, and zero biases.

    So a narrow model learns as fast as a wide model. With a fixed 0.02, as in GPT-2, a width of 192
    learned far more slowly. Layers of other libraries keep their own initialization.
    """
    for module in model.modules():
        if isinstance(module, Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def scale_residuals_(tower: nn.Module, depth: int) -> None:
    """Divide the output weights of residual branches by the square root of twice the depth.

    So the residual stream does not grow with depth.
    """
    for module in tower.modules():
        if isinstance(module, SelfAttention | CrossAttention):
            module.out.weight.div_(math.sqrt(2 * depth))
        elif isinstance(module, MLP):
            module.down.weight.div_(math.sqrt(2 * depth))


# Transformer layers of both towers: attention, MLP and pre-norm blocks.


KeysAndValues = tuple[Float[Tensor, "B H S d"], Float[Tensor, "B H S d"]]


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection.

    Keys need no bias: it adds the same number to every score of a query, which the softmax cancels.
    Without it, the parameter counts equal those of the paper to the digit.
    """

    def __init__(self, width: int, heads: int, *, key_bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=key_bias)
        if not key_bias:
            self.query_bias = nn.Parameter(torch.zeros(width))
            self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "*B L D"],
        *,
        causal: bool = False,
        cache: AttentionState | None = None,
        packing: Packing | None = None,
        mask: Bool[Tensor, "B 1 L L"] | None = None,
    ) -> Float[Tensor, "*B L D"]:
        """Compute self-attention within each sequence."""
        projected = self.qkv(tokens, self._bias())
        if packing is None:
            return self.out(self._mix(projected, causal=causal, cache=cache, mask=mask))
        return self.out(self.mix_packed(projected, packing, causal=causal))

    def mix_packed(
        self, projected: Float[Tensor, "M D3"], packing: Packing, *, causal: bool
    ) -> Float[Tensor, "M D"]:
        """Attend within each caption of packed rows; its shapes differ in each batch."""
        parts = packing.split(projected)
        masks = packing.masks or (None,) * len(parts)
        mixed = [
            self._mix(part, causal=causal, mask=mask)
            for part, mask in zip(parts, masks, strict=True)
        ]
        return packing.join(mixed)

    def _mix(
        self,
        projected: Float[Tensor, "B L D3"],
        *,
        causal: bool,
        cache: AttentionState | None = None,
        mask: Bool[Tensor, "B 1 L L"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        queries, keys, values = _by_head(projected, 3, self.heads)
        if cache is not None:
            mixed = cache.attend(queries, keys, values)
        else:
            mixed = attend(queries, keys, values, mask=mask, causal=causal)
        return rearrange(mixed, "B H L d -> B L (H d)")

    def _bias(self) -> Float[Tensor, " D3"]:
        if self.qkv.bias is not None:
            return self.qkv.bias
        return torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])


class CrossAttention(nn.Module):
    """Multi-head cross-attention, such as of text tokens to image tokens."""

    def __init__(
        self, width: int, context_width: int, heads: int, *, key_bias: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width)
        self.key_value = Linear(context_width, 2 * width, bias=key_bias)
        if not key_bias:
            self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = Linear(width, width)

    def project(self, context: Float[Tensor, "B S C"]) -> KeysAndValues:
        """Project `context` to keys and values, once for many calls of `forward`."""
        projected = self.key_value(context, self._bias())
        keys, values = _by_head(projected, 2, self.heads)
        return keys, values

    def forward(
        self,
        tokens: Float[Tensor, "*B L D"],
        context: KeysAndValues | Float[Tensor, "B S C"],
        *,
        packing: Packing | None = None,
        norm: nn.LayerNorm | None = None,
    ) -> Float[Tensor, "*B L D"]:
        """Compute cross-attention to `context`."""
        queries = self.query(tokens)
        if packing is None:
            assert isinstance(context, tuple)
            return self.out(self._mix(queries, context))
        assert isinstance(context, Tensor)
        return self.out(self.mix_packed(queries, context, packing, norm))

    def mix_packed(
        self,
        queries: Float[Tensor, "M D"],
        context: Float[Tensor, "B S C"],
        packing: Packing,
        norm: nn.LayerNorm | None,
    ) -> Float[Tensor, "M D"]:
        """Attend from packed rows to unprojected tokens; its shapes differ in each batch."""
        keys, values = self.key_value.weight.chunk(2)
        # A key bias adds the same number to all scores of a query, so it has no effect.
        bias = self._bias().chunk(2)[1]
        if norm is not None:
            keys, values, bias = keys * norm.weight, values * norm.weight, bias + values @ norm.bias
        found = latent_attention(queries, context, keys, values, heads=self.heads, packing=packing)
        return found + bias

    def forward_shared(
        self,
        tokens: Float[Tensor, "L D"],
        context: KeysAndValues,
        *,
        mask: Bool[Tensor, "B 1 1 S"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Compute `forward` for queries shared by all rows, which are projected once."""
        batch = context[0].shape[0]
        return self.out(self._mix(self.query(tokens).expand(batch, -1, -1), context, mask=mask))

    def _mix(
        self,
        queries: Float[Tensor, "B L D"],
        context: KeysAndValues,
        *,
        mask: Bool[Tensor, "B 1 1 S"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        split = rearrange(queries, "B L (H d) -> B H L d", H=self.heads)
        return rearrange(attend(split, *context, mask=mask), "B H L d -> B L (H d)")

    def _bias(self) -> Float[Tensor, " D2"]:
        if self.key_value.bias is not None:
            return self.key_value.bias
        return torch.cat([torch.zeros_like(self.value_bias), self.value_bias])


def attend(
    queries: Float[Tensor, "B H L d"],
    keys: Float[Tensor, "B H S d"],
    values: Float[Tensor, "B H S d"],
    *,
    mask: Bool[Tensor, "B 1 _ S"] | None = None,
    causal: bool = False,
) -> Float[Tensor, "B H L d"]:
    """Compute scaled dot-product attention."""
    if queries.device.type != "cpu" or queries.dtype == torch.float32 or not queries.requires_grad:
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=causal and mask is None
        )
    # The fused kernel's backward is slow in bf16 on a CPU: 28 ms in all for 32 x 12 heads of 50
    # tokens, against 6 ms for plain products.
    scores = (queries * queries.shape[3] ** -0.5) @ keys.transpose(2, 3)
    if causal and mask is None:
        mask = scores.new_ones(scores.shape[2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=3) @ values


def _by_head(projected: Float[Tensor, "B L n"], parts: int, heads: int) -> tuple[Tensor, ...]:
    """Split the output of a fused projection into `parts` tensors (B, H, L, d).

    Not by einops: the gradient of these views is written in one pass.
    """
    cut = projected.unflatten(2, (parts, heads, -1)).unbind(2)
    return tuple(part.transpose(1, 2) for part in cut)


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "*B L D"]) -> Float[Tensor, "*B L D"]:
        return self.down(F.gelu(self.up(tokens)))


class TransformerBlock(nn.Module):
    """Pre-norm Transformer block: self-attention, then MLP."""

    def __init__(self, width: int, heads: int, mlp_width: int, *, key_bias: bool = False) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, key_bias=key_bias)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_width)

    def forward(
        self,
        tokens: Float[Tensor, "*B L D"],
        *,
        causal: bool = False,
        cache: AttentionState | None = None,
        packing: Packing | None = None,
        mask: Bool[Tensor, "B 1 L L"] | None = None,
    ) -> Float[Tensor, "*B L D"]:
        """Apply the block; arguments are those of `SelfAttention.forward`."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(
            normed, causal=causal, cache=cache, packing=packing, mask=mask
        )
        return tokens + self.mlp(self.mlp_norm(tokens))


class CrossBlock(nn.Module):
    """Pre-norm decoder block: causal self-attention, cross-attention to the image, MLP.

    The paper's parameter counts imply one MLP per layer; OpenCLIP's variant has two.
    """

    def __init__(self, width: int, context_width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, context_width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_width)

    def forward(
        self,
        tokens: Float[Tensor, "*B L D"],
        image: KeysAndValues | Float[Tensor, "B S C"],
        *,
        cache: AttentionState | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "*B L D"]:
        """Apply the block; see `SelfAttention.forward` and `CrossAttention.forward`."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, causal=True, cache=cache, packing=packing)
        tokens = tokens + self.cross_attention(self.cross_norm(tokens), image, packing=packing)
        return tokens + self.mlp(self.mlp_norm(tokens))


def unit(vectors: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
    """Divide vectors by their length."""
    # Normalized in fp32: in half precision the length would be off by a percent.
    return F.normalize(vectors.float(), dim=-1).to(vectors.dtype)
