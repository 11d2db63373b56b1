"""Attentional pooling: learned queries that read a set of tokens (CoCa, section 3.2).

Dimensions: B batch, S tokens read, Q queries, D width, C width of the tokens read, H heads, d size
of a head.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from coca.model.layers.transformer import CrossAttention


@dataclass(frozen=True)
class Pooling:
    """One step of pooling laid open, to trace what comes out of it back to what was read."""

    queries: Float[Tensor, "Q D"]
    """As the attention takes them."""
    attention: CrossAttention
    norm: nn.LayerNorm
    """Applied to what was read."""
    input_norm: nn.LayerNorm | None = None
    """Applied to the tokens before they are read."""

    def pool(
        self, tokens: Float[Tensor, "B S C"], *, real: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Gives what the queries read; of `real` tokens only, where there are others."""
        context = self.attention.project(self.seen(tokens))
        mask = None if real is None else real[:, None, None]
        return self.norm(self.attention.forward_shared(self.queries, context, mask=mask))

    def seen(self, tokens: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        """Gives the tokens as the attention sees them."""
        return tokens if self.input_norm is None else self.input_norm(tokens)

    def weights(self, tokens: Float[Tensor, "B S C"]) -> Float[Tensor, "B H Q S"]:
        """Gives how much each query reads of each token; sums to 1 over the tokens."""
        context = self.attention.project(self.seen(tokens))
        return self.attention.weights(self.queries.expand(len(tokens), -1, -1), context)

    def vjp(
        self, tokens: Float[Tensor, "B S C"], direction: Float[Tensor, "B Q D"]
    ) -> Float[Tensor, "B S C"]:
        """Turns directions of the output into directions of the seen tokens.

        With the attention weights and the scale of the norm held at what they are, pooling is
        linear. So the dot product of `direction` with the output is that of the result with the
        seen tokens, up to a constant, and tells what each of the tokens contributes.
        """
        context = self.attention.project(self.seen(tokens))
        read = self.attention.forward_shared(self.queries, context)
        scaled = direction * self.norm.weight
        centred = scaled - scaled.mean(dim=2, keepdim=True)
        spread = (read.var(dim=2, correction=0, keepdim=True) + self.norm.eps).sqrt()
        mixed = rearrange(
            (centred / spread) @ self.attention.out.weight,
            "B Q (H d) -> B H Q d",
            H=self.attention.heads,
        )
        values = self.weights(tokens).transpose(2, 3) @ mixed
        to_values = self.attention.key_value.weight[values.shape[1] * values.shape[3] :]
        return rearrange(values, "B H S d -> B S (H d)") @ to_values


class AttentionalPooler(nn.Module):
    """Reads any number of tokens into a fixed number of queries.

    A single multi-head attention layer whose queries are learned, as in the paper. CoCa pools
    twice: 256 queries keep the detail for captioning; one query gives the contrastive embedding.
    The norm at the end is ours (the paper shows none): every decoder layer reads these tokens,
    so they are normalised once here instead of once a layer.
    """

    def __init__(self, width: int, heads: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(queries, width))
        self.attention = CrossAttention(width, width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "B S D"]) -> Float[Tensor, "B Q D"]:
        return self.decompose().pool(tokens)

    def decompose(self) -> Pooling:
        """Gives its parts."""
        return Pooling(self.queries, self.attention, self.norm)
