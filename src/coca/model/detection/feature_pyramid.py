"""Simple feature pyramid on a Vision Transformer (ViTDet, arXiv 2203.16527).

Dimensions: B batch, P patches, D width of the tokens, C channels of the maps; h, w a map's sides.
"""

from collections.abc import Sequence

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from coca.core.errors import ConfigError

SCALES = (4.0, 2.0, 1.0, 0.5)
"""Supported sides of the maps, relative to the grid of patches, as in ViTDet."""


class FeaturePyramid(nn.Module):
    """Feature maps of several scales from the encoder's last tokens alone, as in ViTDet.

    Transposed convolutions give scales 2 and 4, max pooling gives scale 0.5. Two convolutions, each
    followed by a norm, then project each map to the same number of channels.
    """

    def __init__(self, width: int, channels: int, scales: Sequence[float] = SCALES) -> None:
        super().__init__()
        if not scales or any(scale not in SCALES for scale in scales):
            raise ConfigError(
                f"scales must be one or more of {', '.join(map(str, SCALES))} (got {list(scales)})"
            )
        self.levels = nn.ModuleList(_level(scale, width, channels) for scale in scales)

    def forward(
        self, tokens: Float[Tensor, "B P D"], grid: tuple[int, int]
    ) -> list[Float[Tensor, "B C _h _w"]]:
        """Compute one feature map per scale, in the order of the scales.

        Args:
            tokens: Encoder tokens in row-major order of the grid.
            grid: Number of patches along height and width.
        """
        square = rearrange(tokens, "B (h w) D -> B D h w", h=grid[0], w=grid[1])
        return [level(square) for level in self.levels]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each location."""

    def forward(self, maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


def _level(scale: float, width: int, channels: int) -> nn.Sequential:
    resized, width = _resized(scale, width)
    return nn.Sequential(
        *resized,
        nn.Conv2d(width, channels, 1, bias=False),
        ChannelNorm(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        ChannelNorm(channels),
    )


def _resized(scale: float, width: int) -> tuple[list[nn.Module], int]:
    """Return the layers that resize a grid to `scale`, and their output width."""
    if scale == 1:
        return [], width
    if scale < 1:
        return [nn.MaxPool2d(2)], width
    once = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
    if scale == SCALES[1]:
        return [once], width // 2
    twice = nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2)
    return [once, ChannelNorm(width // 2), nn.GELU(), twice], width // 4
