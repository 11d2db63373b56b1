"""A head that names classes: a pooler of its own, and a linear layer.

Dimensions: B samples, F images of a sample, P tokens of an image, L states of what is asked,
D width of what is read, K classes.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from coca.model.config import HeadConfig
from coca.model.layers.init import draw_linears_
from coca.model.layers.prepacked_linear import Linear
from coca.model.pooling import AttentionalPooler, Pooling


class AttentivePoolingHead(nn.Module):
    """A new pooler with one query and a linear layer (CoCa, section 4.2 and appendix B).

    The norm in front is ours: OpenCLIP's encoder hands on tokens as they are. The linear layer
    begins at zero, so that every class is as likely as any other.
    """

    def __init__(self, config: HeadConfig, *, image_width: int, word_width: int) -> None:
        super().__init__()
        self.config = config
        by_words = config.reads == "words"
        width = word_width if by_words else image_width
        self.norm = nn.LayerNorm(width)
        self.pooler = AttentionalPooler(width, config.heads, 1)
        read_apart = config.pictures if by_words else 1
        self.linear = Linear(width * read_apart, len(config.classes))
        self.init_weights()

    def forward(
        self, tokens: Float[Tensor, "BF L D"], *, real: Bool[Tensor, "BF L"] | None = None
    ) -> Float[Tensor, "B K"]:
        """Gives the logits of each sample.

        Args:
            tokens: What each image, or the decoder before each image, gives; the images of a
                sample stand one after the other.
            real: Which of them count; None: all.
        """
        pictures = self.config.pictures
        if self.config.reads == "image":
            tokens = rearrange(tokens, "(B F) P D -> B (F P) D", F=pictures)
        pooled = self._pooling.pool(tokens, real=real)[:, 0]
        if self.config.reads == "words":
            pooled = rearrange(pooled, "(B F) D -> B (F D)", F=pictures)
        return self.linear(pooled)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Sets every weight, as `CoCa.init_weights` does for the others."""
        draw_linears_(self)
        nn.init.normal_(self.pooler.queries)
        nn.init.zeros_(self.linear.weight)

    @property
    def _pooling(self) -> Pooling:
        pooler = self.pooler
        return Pooling(pooler.queries, pooler.attention, pooler.norm, self.norm)
