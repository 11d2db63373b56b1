"""Classification head: an attentional pooler and a linear layer.

Dimensions: B samples, F images of a sample, P tokens of an image, L states of the prompt,
D width of the tokens, K classes.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from coca.model.coca_config import HeadConfig
from coca.model.layers.prepacked import Linear
from coca.model.layers.transformer import init_linears_
from coca.model.pooling import AttentionalPooler, Pooling


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
