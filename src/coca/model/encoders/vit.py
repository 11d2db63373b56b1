"""Image encoder of kind `vit`: a Vision Transformer without class token, for any resolution.

Dimensions: B batch, P patches, K patches that are kept, S tokens with a position, D width; `h` and
`w` count patches along a side, `p` pixels in one.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.encoders.encoder import (
    IMAGE_ENCODERS,
    ImageEncoder,
    ImageEncoderConfig,
    require_heads,
)
from coca.model.layers.transformer import Linear, TransformerBlock, scale_residuals_


class ViTConfig(ImageEncoderConfig):
    """A Vision Transformer without class token; poolers read all of its tokens."""

    kind: str = "vit"
    image_size: PositiveInt = 288
    """Side of the square input in pixels; other sizes resize the positions."""
    patch_size: PositiveInt = 18
    """Side of a patch in pixels; 288/18 gives the 256 tokens of the paper."""
    channels: PositiveInt = 3
    """Colour channels of the input."""
    width: PositiveInt = 768
    """Features per token."""
    layers: PositiveInt = 12
    """Transformer blocks."""
    heads: PositiveInt = 12
    """Attention heads per block."""
    mlp_width: PositiveInt = 3072
    """Hidden features of each MLP."""

    @model_validator(mode="after")
    def _check_heads(self) -> "ViTConfig":
        require_heads("image", self.width, self.heads)
        return self


class PatchEncoder(ImageEncoder):
    """Base class of both image encoders: patches, position embeddings and patch dropout.

    Attributes:
        patch_dropout: Fraction of the patches of each image to drop in training, at least 0 and
            below 1 (FLIP, arXiv 2212.00794). Patches are sampled independently for each image
            from torch's global generator of the images' device. It is a setting of the run and
            not of the model's shape, so it is neither configured nor saved.
    """

    config_class = ViTConfig
    config: ViTConfig
    positions: nn.Parameter
    """Positions of the extra tokens, then of the patches in row-major order."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_dropout = 0.0

    def set_patch_dropout(self, fraction: float) -> None:
        """Set the fraction of patches to drop in training."""
        self.patch_dropout = fraction

    def state_for(self, image_size: int) -> dict[str, Tensor]:
        """Return the weights with position embeddings for another native image size."""
        side = image_size // self.config.patch_size
        return {**self.state_dict(), "positions": self.positions_for(side, side)}

    def positions_for(self, h: int, w: int) -> Float[Tensor, "S D"]:
        """Return the position embeddings of the extra tokens, then of a grid of `h` x `w` patches.

        Patch positions are interpolated from the model's native grid (bicubic, antialiased), as in
        OpenCLIP's `resize_pos_embed`. Positions of extra tokens are not changed.
        """
        side = self.config.image_size // self.config.patch_size
        if (h, w) == (side, side):
            return self.positions
        extra, grid = self.positions[: self.extra_tokens], self.positions[self.extra_tokens :]
        square = rearrange(grid, "(h w) D -> 1 D h w", h=side)
        # Interpolated in fp32: half precision has no antialiased kernel and would lose detail.
        resized = F.interpolate(
            square.float(), size=(h, w), mode="bicubic", align_corners=False, antialias=True
        )
        return torch.cat([extra, rearrange(resized, "1 D h w -> (h w) D").to(grid.dtype)])

    def _patches(
        self, images: Float[Tensor, "B C height width"]
    ) -> tuple[Float[Tensor, "B K pixels"], Float[Tensor, "*B K D"]]:
        """Split images into patches and apply patch dropout; return patches and positions."""
        p = self.config.patch_size
        # A matmul over unfolded patches equals the usual strided convolution, and is faster.
        patches = rearrange(images, "B C (h p) (w q) -> B (h w) (C p q)", p=p, q=p)
        positions = self.positions_for(images.shape[2] // p, images.shape[3] // p)
        positions = positions[self.extra_tokens :]
        if not (self.training and self.patch_dropout > 0):
            return patches, positions
        count = max(1, round((1 - self.patch_dropout) * patches.shape[1]))
        chance = torch.rand(patches.shape[:2], device=patches.device)
        kept = chance.topk(count, dim=1).indices  # (B, K)
        # Not plain indexing: its gradient is not bitwise reproducible on several threads.
        return patches.take_along_dim(kept[..., None], dim=1), F.embedding(kept, positions)


@IMAGE_ENCODERS.register("vit")
class VisionTransformer(PatchEncoder):
    """Vision Transformer that encodes images as one token per patch.

    Position embeddings are learned for `image_size` and interpolated for other sizes, as when the
    paper goes from 288 to 576 pixels.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.patch_embedding = Linear(config.channels * config.patch_size**2, config.width)
        self.positions = nn.Parameter(torch.empty(config.tokens, config.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.mlp_width)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def init_weights(self) -> None:
        """Scale the residual branches and initialize the positions."""
        scale_residuals_(self, self.config.layers)
        nn.init.normal_(self.positions, std=self.config.width**-0.5)

    def features(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B P D"]:
        p = self.config.patch_size
        height, width = images.shape[-2:]
        if height % p or width % p:
            raise ConfigError(
                f"an image of {height} x {width} pixels is not a multiple of patch_size {p}"
            )
        patches, positions = self._patches(images)
        tokens = self.patch_embedding(patches) + positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)
