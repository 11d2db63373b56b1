"""Class branch and class tokens: what the image encoder's own classifier adds to a CoCa.

Not of the paper. The branch adds to the image embedding, the tokens to those that the decoder
reads.

Dimensions: B batch, S tokens, C their width, F features, K classes, E shared embedding, N class
tokens, T text tokens of a name.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coca.model.encoders.encoder import Encoded, ImageEncoder
from coca.model.layers.transformer import Linear, unit

BRANCH_SCALE = 0.5
"""Initial length of the class branch, where the other part of an embedding has length 1."""

BRANCH_POWER = 0.75
"""Power of the probabilities in the class branch; chosen by scores, see docs/lab-notes.md."""

NAME_TOKENS = 8
"""Text tokens of a class name that class tokens keep."""

DROPPED_CLASSES = 0.2
"""Fraction of images in training whose class tokens are zeros: a decoder learns to work without."""


def encode_with_classes(
    encoder: ImageEncoder,
    images: Float[Tensor, "B *F RGB height width"] | Float[Tensor, "B S features"],
) -> Encoded:
    """Encode images as `ImageEncoder.forward` does, and classify them by the encoder's classifier.

    The probabilities of a series are averaged over its images.
    """
    final = encoder.final_features(images)
    likely = encoder.classify(final).float().softmax(dim=1)
    tokens, batch = encoder.project(final), images.shape[0]
    return Encoded(
        tokens.reshape(batch, -1, tokens.shape[2]),
        likely.reshape(batch, -1, likely.shape[1]).mean(dim=1),
    )


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
