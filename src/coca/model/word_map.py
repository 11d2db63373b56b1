"""Token embeddings as a shared linear map of word vectors, for words that no caption contains.

    row of token t = free row of t + (word vector of t) W

W is shared by all tokens. Only tokens that were learned from captions also train their free row.
The row of any other word is the map of its vector, so it stays close to the rows of similar words.
The map is a torch parametrization of the embedding, and is folded into one table at the end.

Dimensions: V tokens, G numbers per word vector, D width.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

EMBEDDING = "unimodal_decoder.token_embedding"
_PLACE = f"{EMBEDDING}.parametrizations.weight"


class WordMap(nn.Module):
    """Adds the map of word vectors to the free rows of an embedding."""

    vectors: Float[Tensor, "V G"]
    is_free: Float[Tensor, "V 1"]

    def __init__(
        self,
        vectors: Float[Tensor, "V G"],
        is_free: Float[Tensor, "V 1"],
        mapping: Float[Tensor, "G D"],
    ) -> None:
        super().__init__()
        self.mapping = nn.Parameter(mapping)
        self.register_buffer("vectors", vectors)
        self.register_buffer("is_free", is_free)

    def forward(self, free: Float[Tensor, "V D"]) -> Float[Tensor, "V D"]:
        # Rows without gradient keep what they were initialized with.
        return torch.where(self.is_free > 0, free, free.detach()) + self.vectors @ self.mapping


@torch.no_grad()
def add_word_map_(
    embedding: nn.Embedding, vectors: Float[Tensor, "V G"], *, learned: int, initialized: bool
) -> None:
    """Replace a token embedding by free rows plus a shared map of word vectors."""
    rows, has_vector = embedding.weight, vectors.norm(dim=1) > 0
    if initialized:
        # Rows without a free part determine the map; all rows if there are none.
        fitted = has_vector.clone()
        if has_vector[learned:].any():
            fitted[:learned] = False
        mapping = torch.linalg.lstsq(vectors[fitted].double(), rows[fitted].double()).solution
        free = (rows.double() - vectors.double() @ mapping).to(rows.dtype)
        mapping = mapping.to(rows.dtype)
    else:
        # Vectors of unit length give rows of the same size as a random initialization.
        mapping = torch.randn(vectors.shape[1], rows.shape[1]) * rows.shape[1] ** -0.5
        free = torch.where(has_vector[:, None], 0.0, rows)
    embedding.weight.copy_(free)
    # As numbers: DDP broadcasts buffers, and not every backend broadcasts truth values.
    is_free = ((torch.arange(len(rows)) < learned) | ~has_vector).to(rows.dtype)[:, None]
    parametrize.register_parametrization(embedding, "weight", WordMap(vectors, is_free, mapping))


@torch.no_grad()
def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold the map into one table of token embeddings, for a plain model with the same outputs."""
    plain = {name: tensor for name, tensor in state.items() if not name.startswith(_PLACE)}
    vectors, mapping = state[f"{_PLACE}.0.vectors"], state[f"{_PLACE}.0.mapping"]
    plain[f"{EMBEDDING}.weight"] = state[f"{_PLACE}.original"] + vectors @ mapping
    return plain
