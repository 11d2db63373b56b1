"""The parts that both towers share: attention, MLP and pre-norm Transformer blocks.

Letters: B batch, L tokens, S tokens attended to, D width, C width of the attended tokens, H heads.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

KeysAndValues = tuple[Float[Tensor, "B H S d"], Float[Tensor, "B H S d"]]


@dataclass
class KeyValueCache:
    """What one self-attention layer has seen, so that a new token costs one row of work."""

    keys: Float[Tensor, "B H S d"] | None = None
    values: Float[Tensor, "B H S d"] | None = None

    def append(self, keys: Tensor, values: Tensor) -> KeysAndValues:
        """Adds new tokens and gives all keys and values seen so far."""
        if self.keys is not None and self.values is not None:
            # Causal SDPA aligns a rectangular mask at the top left, which would be wrong here.
            assert keys.shape[2] == 1, "a filled cache takes one token at a time"
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values

    def keep(self, rows: Int[Tensor, " K"]) -> None:
        """Drops all rows of the batch but `rows`, in their order."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, with one fused projection.

    Keys have no bias: it would add the same number to every score of a query, which the softmax
    takes away again. Without it the sizes of the paper come out to the digit.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "B L D"],
        *,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "B L D"]:
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        queries, keys, values = rearrange(
            F.linear(tokens, self.qkv.weight, bias),
            "B L (three H d) -> three B H L d",
            three=3,
            H=self.heads,
        )
        if cache is not None:
            keys, values = cache.append(keys, values)
        # A single new token may see everything before it: no mask is needed.
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=causal and queries.shape[2] > 1
        )
        return self.out(rearrange(mixed, "B H L d -> B L (H d)"))


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence to another one, such as words to image tokens."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width, 2 * width, bias=False)
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def project(self, context: Float[Tensor, "B S C"]) -> KeysAndValues:
        """Gives the keys and values of `context`; do it once and attend many times."""
        bias = torch.cat([torch.zeros_like(self.value_bias), self.value_bias])
        keys, values = rearrange(
            F.linear(context, self.key_value.weight, bias),
            "B S (two H d) -> two B H S d",
            two=2,
            H=self.heads,
        )
        return keys, values

    def forward(
        self, tokens: Float[Tensor, "B L D"], context: KeysAndValues
    ) -> Float[Tensor, "B L D"]:
        queries = rearrange(self.query(tokens), "B L (H d) -> B H L d", H=self.heads)
        mixed = F.scaled_dot_product_attention(queries, *context)
        return self.out(rearrange(mixed, "B H L d -> B L (H d)"))

    def forward_shared(
        self, tokens: Float[Tensor, "L D"], context: KeysAndValues
    ) -> Float[Tensor, "B L D"]:
        """As `forward`, for queries that are the same in each row: they are projected once."""
        queries = rearrange(self.query(tokens), "L (H d) -> H L d", H=self.heads)
        batch = context[0].shape[0]
        mixed = F.scaled_dot_product_attention(queries.expand(batch, -1, -1, -1), *context)
        return self.out(rearrange(mixed, "B H L d -> B L (H d)"))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.down(F.gelu(self.up(tokens)))


class Block(nn.Module):
    """Pre-norm Transformer block: self-attention, then MLP."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_width)

    def forward(
        self,
        tokens: Float[Tensor, "B L D"],
        *,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "B L D"]:
        tokens = tokens + self.attention(self.attention_norm(tokens), causal=causal, cache=cache)
        return tokens + self.mlp(self.mlp_norm(tokens))


class CrossBlock(nn.Module):
    """Pre-norm decoder block: causal self-attention, attention to the image, one MLP.

    One MLP a layer is what the paper's parameter counts need; OpenCLIP's variant has two.
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
        tokens: Float[Tensor, "B L D"],
        image: KeysAndValues,
        *,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "B L D"]:
        tokens = tokens + self.attention(self.attention_norm(tokens), causal=True, cache=cache)
        tokens = tokens + self.cross_attention(self.cross_norm(tokens), image)
        return tokens + self.mlp(self.mlp_norm(tokens))
