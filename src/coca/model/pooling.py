"""Attentional pooling: learned queries that attend to a set of tokens (CoCa, section 3.2).

Dimensions: B batch, S tokens attended to, Q queries, D width, C width of these tokens, H heads,
d size of a head.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from coca.model.layers.transformer import CrossAttention


@dataclass(frozen=True)
class Pooling:
    """The parts of one pooling step, for forward passes and for attribution."""

    queries: Float[Tensor, "Q D"]
    """Input of the attention layer."""
    attention: CrossAttention
    norm: nn.LayerNorm
    """Applied to the output of the attention."""
    input_norm: nn.LayerNorm | None = None
    """Applied to the tokens before the attention."""

    def pool(
        self, tokens: Float[Tensor, "B S C"], *, real: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Pool tokens into one vector per query; `real` masks padding out."""
        context = self.attention.project(self.normalized(tokens))
        mask = None if real is None else real[:, None, None]
        return self.norm(self.attention.forward_shared(self.queries, context, mask=mask))

    def normalized(self, tokens: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        """Apply the input norm, if there is one."""
        return tokens if self.input_norm is None else self.input_norm(tokens)

    def weights(self, tokens: Float[Tensor, "B S C"]) -> Float[Tensor, "B H Q S"]:
        """Compute the attention weights of each query; they sum to 1 over the tokens."""
        context = self.attention.project(self.normalized(tokens))
        return self.attention.weights(self.queries.expand(len(tokens), -1, -1), context)

    def vjp(
        self, tokens: Float[Tensor, "B S C"], direction: Float[Tensor, "B Q D"]
    ) -> Float[Tensor, "B S C"]:
        """Compute the vector-Jacobian product of pooling, from outputs to normalized inputs.

        Pooling is linear if the attention weights and the scale of the norm are held fixed. So the
        dot product of `direction` with the output equals that of the result with the normalized
        inputs, up to a constant. This gives the contribution of each token.
        """
        context = self.attention.project(self.normalized(tokens))
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
    """Pool any number of tokens into a fixed number of learned queries.

    A single multi-head attention layer with learned queries, as in the paper. CoCa pools twice:
    256 queries keep the detail for captioning; one query gives the contrastive embedding.
    The output norm is an addition, which the paper does not show. Every decoder layer attends to
    these tokens, so they are normalized once here and not once per layer.
    """

    def __init__(self, width: int, heads: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(queries, width))
        self.attention = CrossAttention(width, width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "B S D"]) -> Float[Tensor, "B Q D"]:
        return self.decompose().pool(tokens)

    def decompose(self) -> Pooling:
        """Return the pooling step as its parts."""
        return Pooling(self.queries, self.attention, self.norm)
