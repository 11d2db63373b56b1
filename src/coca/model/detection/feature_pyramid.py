"""Maps of several scales from the one scale of a Vision Transformer (ViTDet, arXiv 2203.16527).

Dimensions: B batch, P patches, D width of the tokens, C channels of the maps; h, w a map's sides.
"""

from collections.abc import Sequence

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from coca.core.errors import ConfigError

SCALES = (4.0, 2.0, 1.0, 0.5)
"""Sides of the maps, relative to the grid of patches, as in ViTDet."""


class FeaturePyramid(nn.Module):
    """Makes each map from the encoder's last tokens alone, which ViTDet found to suffice.

    Twice and four times the grid by transposed convolutions, half of it by pooling; then two
    convolutions with a norm behind each bring all to the same channels.
    """

    def __init__(self, width: int, channels: int, scales: Sequence[float] = SCALES) -> None:
        super().__init__()
        if not scales or any(scale not in SCALES for scale in scales):
            raise ConfigError(
                f"scales is {list(scales)}; right is one or more of {', '.join(map(str, SCALES))}"
            )
        self.levels = nn.ModuleList(_level(scale, width, channels) for scale in scales)

    def forward(
        self, tokens: Float[Tensor, "B P D"], grid: tuple[int, int]
    ) -> list[Float[Tensor, "B C _h _w"]]:
        """Gives one map a scale, in the order of the scales.

        Args:
            tokens: The encoder's, row by row of the grid.
            grid: Patches along height and width.
        """
        square = rearrange(tokens, "B (h w) D -> B D h w", h=grid[0], w=grid[1])
        return [level(square) for level in self.levels]


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each place."""

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
    """Layers that bring a grid to the scale, and the width that comes out."""
    if scale == 1:
        return [], width
    if scale < 1:
        return [nn.MaxPool2d(2)], width
    once = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
    if scale == SCALES[1]:
        return [once], width // 2
    twice = nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2)
    return [once, ChannelNorm(width // 2), nn.GELU(), twice], width // 4
