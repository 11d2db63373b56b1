"""Attentional pooling: learned queries that read a set of tokens (CoCa, section 3.2).

Letters: B batch, S tokens read, Q queries, D width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coca.model.layers import CrossAttention


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
        context = self.attention.project(tokens)
        return self.norm(self.attention.forward_shared(self.queries, context))
