"""Class branch and class tokens: a CoCa that also reads its image encoder's own classifier.

An addition to the paper. The branch adds to the image embedding, and the decoder reads the class
tokens after the image tokens.

Dimensions: B batch, S tokens, C their width, F features, K classes, E shared embedding, N class
tokens, T text tokens of a name.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.model.encoders.backbone import BackboneConfig
from coca.model.encoders.encoder import EncodedImages
from coca.model.layers.transformer import Linear, unit

BRANCH_SCALE = 0.5
"""Initial length of the class branch, where the other part of an embedding has length 1."""

BRANCH_POWER = 0.75
"""Power of the probabilities in the class branch; chosen by scores, see benchmarks/lab-notes.md."""

NAME_TOKENS = 8
"""Text tokens of a class name that class tokens keep."""

DROPPED_CLASSES = 0.2
"""Fraction of images in training whose class tokens are zeros: a decoder learns to work without."""


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


class ClassCoCa(CoCa):
    """A CoCa with a class branch, class tokens, or both, as the image settings choose."""

    class_branch: ClassBranch | None
    class_tokens: ClassTokens | None

    @staticmethod
    def fits(config: CoCaConfig) -> bool:
        """Return whether the image settings choose a class branch or class tokens."""
        image = config.image
        return isinstance(image, BackboneConfig) and (image.class_branch or image.class_tokens > 0)

    def add_modules(self) -> None:
        image = self.config.image
        assert isinstance(image, BackboneConfig), "as `fits` checks"
        self.class_branch = self.class_tokens = None
        if image.class_branch:
            self.class_branch = ClassBranch(image.classes, self.config.embed_dim)
        if image.class_tokens:
            widths = {"image_width": image.width, "text_width": self.config.text.width}
            self.class_tokens = ClassTokens(image.classes, image.class_tokens, **widths)

    @torch.no_grad()
    def init_weights(self) -> None:
        super().init_weights()
        if self.class_branch is not None and not self.log_scale.is_meta:
            self.class_branch.init_weights()

    def encode(
        self, images: Float[Tensor, "B *F RGB height width"] | Float[Tensor, "B S features"]
    ) -> EncodedImages:
        """Encode images to tokens, and classify them by the encoder's own classifier.

        The probabilities of a series are averaged over its images.
        """
        final = self.image_encoder.final_features(images)
        likely = self.image_encoder.classify(final).float().softmax(dim=1)
        tokens, batch = self.image_encoder.project(final), images.shape[0]
        return EncodedImages(
            tokens.reshape(batch, -1, tokens.shape[2]),
            likely.reshape(batch, -1, likely.shape[1]).mean(dim=1),
        )

    def pool(self, encoded: EncodedImages) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B S C"]]:
        embedding, tokens = super().pool(encoded)
        return self._with_branch(embedding, encoded), self._with_tokens(tokens, encoded)

    def pool_embedding(self, encoded: EncodedImages) -> Float[Tensor, "B E"]:
        return self._with_branch(super().pool_embedding(encoded), encoded)

    def pool_tokens(self, encoded: EncodedImages) -> Float[Tensor, "B S C"]:
        return self._with_tokens(super().pool_tokens(encoded), encoded)

    def _with_branch(
        self, embedding: Float[Tensor, "B E"], encoded: EncodedImages
    ) -> Float[Tensor, "B E"]:
        if self.class_branch is None:
            return embedding
        return unit(embedding + self.class_branch(encoded.probabilities))

    def _with_tokens(
        self, tokens: Float[Tensor, "B Q C"], encoded: EncodedImages
    ) -> Float[Tensor, "B S C"]:
        if self.class_tokens is None:
            return tokens
        likely = self.class_tokens(encoded.probabilities, self.unimodal_decoder.token_embedding)
        return torch.cat([tokens, likely.to(tokens.dtype)], dim=1)
