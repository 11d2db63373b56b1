"""Classes: the head of a downstream task, and what the image encoder's own classifier knows.

Dimensions: B samples, F images of a sample, P tokens of an image, L states of the prompt,
D width of the tokens, K classes, E shared embedding.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.coca_config import HeadConfig
from coca.model.layers.prepacked import Linear
from coca.model.layers.transformer import init_linears_
from coca.model.pooling import AttentionalPooler, Pooling

BRANCH_SCALE = 0.5
"""Initial length of the class branch, where the other part of an embedding has length 1."""


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
        """Compute the class logits of each sample.

        Args:
            tokens: Tokens of each image, or decoder states for each image; the images of a
                sample are consecutive.
            real: Mask of the tokens that are not padding; None: all.
        """
        images = self.config.images_per_sample
        if self.config.reads == "image":
            tokens = rearrange(tokens, "(B F) P D -> B (F P) D", F=images)
        pooled = self._pooling.pool(tokens, real=real)[:, 0]
        if self.config.reads == "text":
            pooled = rearrange(pooled, "(B F) D -> B (F D)", F=images)
        return self.linear(pooled)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize every weight, as `CoCa.init_weights` does."""
        init_linears_(self)
        nn.init.normal_(self.pooler.queries)
        nn.init.zeros_(self.linear.weight)

    @property
    def _pooling(self) -> Pooling:
        pooler = self.pooler
        return Pooling(pooler.queries, pooler.attention, pooler.norm, self.norm)


def unit(vectors: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
    """Divide vectors by their length."""
    # Normalized in fp32: in half precision the length would be off by a percent.
    return F.normalize(vectors.float(), dim=-1).to(vectors.dtype)


class ClassBranch(nn.Module):
    """Part of the image embedding by the class probabilities of the encoder's own classifier.

    Contrastive training on few captions forgets most of the classes that an encoder with labelled
    pretraining knows. The branch keeps them: vectors of the classes, weighted by the square roots
    of their probabilities, are added to the embedding, which is normalized again. It is an addition
    to the paper. ConSE (Norouzi et al. 2013, arXiv 1312.5650) embeds images by such a weighted mean
    of word vectors.
    """

    def __init__(self, classes: int, embed_dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(classes, embed_dim))
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, probabilities: Float[Tensor, "B K"]) -> Float[Tensor, "B E"]:
        """Compute what is added to an embedding of length 1."""
        return self.scale * unit(probabilities.sqrt().to(self.vectors.dtype) @ self.vectors)

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
