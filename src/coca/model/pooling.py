"""Attentional pooling: learned queries that attend to a set of tokens (CoCa, section 3.2).

The head of a downstream task is a further pooler, with a linear layer. What the image encoder's own
classifier knows is added to the pooled embedding (class branch) and to the decoder's image tokens
(class tokens).

Dimensions: B batch, S tokens attended to, Q queries, D width, C width of these tokens, H heads,
d size of a head, F images of a sample, P tokens of an image, L states of the prompt, K classes,
E shared embedding, N class tokens.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coca.model.coca_config import HeadConfig
from coca.model.layers.linear import Linear
from coca.model.layers.transformer import CrossAttention, init_linears_, unit


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

    def forward(
        self, tokens: Float[Tensor, "B S D"], *, real: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Pool tokens into one vector per query; `real` masks padding out."""
        mask = None if real is None else real[:, None, None]
        context = self.attention.project(tokens)
        return self.norm(self.attention.forward_shared(self.queries, context, mask=mask))


BRANCH_SCALE = 0.5
"""Initial length of the class branch, where the other part of an embedding has length 1."""

BRANCH_POWER = 0.75
"""Power of the probabilities in the class branch; chosen by scores, see docs/lab-notes.md."""

NAME_TOKENS = 8
"""Text tokens of a class name that class tokens keep."""

DROPPED_CLASSES = 0.2
"""Fraction of images in training whose class tokens are zeros: a decoder learns to work without."""


class AttentivePoolingHead(nn.Module):
    """A new pooler with one query and a linear layer (CoCa, section 4.2 and appendix B).

    The input norm is an addition: OpenCLIP's encoder returns tokens without a final norm. The
    linear layer starts at zero, so that all classes are equally likely.
    """

    def __init__(self, config: HeadConfig, *, image_width: int, text_width: int) -> None:
        super().__init__()
        self.config = config
        reads_text = config.reads == "text"
        width = text_width if reads_text else image_width
        self.norm = nn.LayerNorm(width)
        self.pooler = AttentionalPooler(width, config.heads, 1)
        concatenated = config.images_per_sample if reads_text else 1
        self.linear = Linear(width * concatenated, len(config.classes))
        self.init_weights()

    def forward(
        self, tokens: Float[Tensor, "BF L D"], *, real: Bool[Tensor, "BF L"] | None = None
    ) -> Float[Tensor, "B K"]:
        """Compute the class logits of each sample."""
        images = self.config.images_per_sample
        if self.config.reads == "image":
            tokens = rearrange(tokens, "(B F) P D -> B (F P) D", F=images)
        pooled = self.pooler(self.norm(tokens), real=real)[:, 0]
        if self.config.reads == "text":
            pooled = rearrange(pooled, "(B F) D -> B (F D)", F=images)
        return self.linear(pooled)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize every weight, as `CoCa.init_weights` does."""
        init_linears_(self)
        nn.init.normal_(self.pooler.queries)
        nn.init.zeros_(self.linear.weight)


class ClassBranch(nn.Module):
    """Part of the image embedding by the class probabilities of the encoder's own classifier.

    Contrastive training on few captions forgets most of the classes that an encoder with labelled
    pretraining knows. The branch keeps them: vectors of the classes, weighted by a power of their
    probabilities, are added to the embedding, which is normalized again. A power below 1 gives more
    weight to classes that a scene contains besides the first. It is an addition to the paper. ConSE
    (Norouzi et al. 2013, arXiv 1312.5650) embeds images by a mean of word vectors that is weighted
    by probabilities.
    """

    def __init__(self, classes: int, embed_dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(classes, embed_dim))
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, probabilities: Float[Tensor, "B K"]) -> Float[Tensor, "B E"]:
        """Compute what is added to an embedding of length 1."""
        weights = probabilities**BRANCH_POWER
        return self.scale * unit(weights.to(self.vectors.dtype) @ self.vectors)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize the vectors at random, and the scale."""
        nn.init.normal_(self.vectors, std=self.vectors.shape[1] ** -0.5)
        self.scale.fill_(BRANCH_SCALE)

    @torch.no_grad()
    def start_at(self, vectors: Float[Tensor, "K E"]) -> None:
        """Let the vector of each class start at the text embedding of its name.

        Their mean is subtracted, since it would move all images in the same direction.
        """
        self.vectors.copy_(vectors - vectors.mean(dim=0))


class ClassTokens(nn.Module):
    """Image tokens of the most probable classes, which the decoder reads.

    The token of a class is a linear map of the token embeddings of its name, normalized, times the
    square root of its probability. It has no parameters of its own: all classes share the map, and
    names have the embeddings of the text decoder. A decoder with tied embeddings thus learns from
    some classes to copy names, and copies those of classes that no caption names.
    """

    names: Int[Tensor, "K T"]
    """Text tokens of the name of each class, padded with -1."""
    vectors: Float[Tensor, "K C"] | None
    """The normalized vectors of all classes after `fold_`."""

    def __init__(self, classes: int, count: int, *, image_width: int, text_width: int) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("names", torch.full((classes, NAME_TOKENS), -1, dtype=torch.int32))
        self.register_buffer("vectors", None, persistent=False)
        self.map = Linear(text_width, image_width, bias=False)
        self.norm = nn.LayerNorm(image_width)

    def forward(
        self, probabilities: Float[Tensor, "B K"], embedding: nn.Embedding
    ) -> Float[Tensor, "B N C"]:
        """Compute the tokens of the `count` most probable classes, which come first."""
        likely, classes = probabilities.topk(self.count, dim=1)
        weights = likely.sqrt()
        if self.training:
            weights = weights * (torch.rand_like(weights[:, :1]) >= DROPPED_CLASSES)
        if self.vectors is not None:
            return weights[..., None] * self.vectors[classes]
        return weights[..., None] * self._vectors(self.names[classes], embedding)

    @torch.no_grad()
    def fold_(self, embedding: nn.Embedding) -> None:
        """Compute the vectors of all classes once, for export; later training ignores them."""
        self.vectors = self._vectors(self.names, embedding)

    def _vectors(
        self, names: Int[Tensor, "*B T"], embedding: nn.Embedding
    ) -> Float[Tensor, "*B C"]:
        # The norm makes the sum equal to the mean.
        embedded = embedding(names.clamp(min=0)) * (names >= 0)[..., None]
        return self.norm(self.map(embedded.sum(dim=-2)))
