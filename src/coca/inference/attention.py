"""Cross-attention maps of the words of a caption, and their plots.

    maps = predictor.explain_caption("cat.jpg")
    Path("maps.png").write_bytes(draw_word_maps(maps))

Dimensions: S side of the model's input (pixels), W words, h and w patches along the sides.
"""

import io
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from coca.core.errors import ConfigError
from coca.core.extras import require
from coca.model.attention_maps import cross_attention_maps
from coca.model.captioner import Captioner
from coca.processing.processor import Processor
from coca.processing.tokenizer import TextTokenizer
from coca.runtime.inputs import ImageInput, WordMaps

COLUMNS = 6
"""Tiles per row of a plot."""


@torch.inference_mode()
def word_maps(
    model: Captioner, processor: Processor, image: ImageInput, ids: Sequence[int]
) -> WordMaps:
    """Compute the cross-attention maps of a caption; see `Predictor.explain_caption`."""
    most = model.config.text.max_text_tokens
    if not 1 < len(ids) <= most + 1:
        raise ConfigError(
            f"a caption of {len(ids) - 1} tokens cannot be explained; it needs 1 to {most}"
        )
    pixels = _pixels(model, processor, image)
    tokens = torch.tensor([ids], device=model.log_scale.device)
    # The attention that predicts a token is that of the previous position.
    maps = cross_attention_maps(model, pixels, tokens)[0, :-1]
    words, owners = _words(processor.tokenizer, ids[1:])
    merged = [
        maps[[position for position, _ in group]].mean(dim=0)
        for _, group in groupby(enumerate(owners), key=lambda pair: pair[1])
    ]
    grid = _grid(model, torch.stack(merged))
    return WordMaps(_seen(processor, pixels), tuple(words), grid)


def draw_word_maps(maps: WordMaps, *, columns: int = COLUMNS) -> bytes:
    """Plot the image and one heat map per word, as PNG.

    Red marks more attention than the mean over the words, blue less.

    Raises:
        MissingExtraError: The extra `report` is not installed.
    """
    heats = np.log2(maps.contrast)
    limit = _limit(heats)
    ends = (f"{2**-limit:.1g} times", "as the others", f"{2**limit:.2g} times")
    return _drawn(maps.image, list(zip(maps.words, heats, strict=True)), limit, ends, columns)


def _limit(heats: Float[ndarray, "W h w"]) -> float:
    """Return the colour limit, the 98 % quantile: outliers must not make all others pale."""
    return max(float(np.quantile(np.abs(heats), 0.98)), 1e-6)


def _drawn(
    image: UInt8[ndarray, "S S 3"],
    tiles: Sequence[tuple[str, Float[ndarray, "h w"]]],
    limit: float,
    ends: tuple[str, str, str],
    columns: int,
) -> bytes:
    """Plot heat maps from `-limit` to `limit`, with `ends` as the labels of the colour bar."""
    require("matplotlib", extra="report")
    # The object interface: no global state, no display.
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    rows = -(-(len(tiles) + 1) // columns)
    # Rows of equal length, so that the last row is as full as possible.
    columns = -(-(len(tiles) + 1) // rows)
    height = 2.15 * rows + 0.6
    figure = Figure(figsize=(1.8 * columns, height), layout="constrained", dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    side = image.shape[0]
    gray = image.mean(axis=2)
    settings: dict[str, Any] = {
        "extent": (0, side, side, 0),
        "cmap": "RdBu_r",
        "interpolation": "bicubic",
    }
    for tile in axes:
        tile.set_axis_off()
    axes[0].imshow(image, extent=settings["extent"])
    for tile, (title, heat) in zip(axes[1:], tiles, strict=False):
        tile.imshow(gray, extent=settings["extent"], cmap="gray", vmin=0, vmax=255)
        # The overlay is opaque only where values are large.
        cover = 0.85 * np.minimum(np.abs(heat / limit), 1) ** 0.7
        drawn = tile.imshow(heat, vmin=-limit, vmax=limit, alpha=cover, **settings)
        # A caption may contain control characters, which no font has, and characters that
        # matplotlib parses as a formula.
        shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in title)
        tile.set_title(shown, fontsize=10, parse_math=False)
    scale = ScalarMappable(drawn.norm, settings["cmap"])
    bar = figure.colorbar(
        scale, ax=axes, location="bottom", aspect=40, fraction=0.12 / height, extend="both"
    )
    bar.set_ticks([-limit, 0, limit], labels=ends)
    bar.outline.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _pixels(model: Captioner, processor: Processor, image: ImageInput) -> Float[Tensor, "1 3 S S"]:
    return processor.images([image]).to(model.log_scale.device, model.log_scale.dtype)


def _seen(processor: Processor, pixels: Float[Tensor, "1 3 S S"]) -> UInt8[ndarray, "S S 3"]:
    config = processor.image_config
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    shown = (pixels[0].float().cpu() * std + mean).clamp(0, 1) * 255
    return shown.round().to(torch.uint8).permute(1, 2, 0).numpy()


def _grid(model: Captioner, maps: Float[Tensor, "W P"]) -> Float[ndarray, "W h w"]:
    side = model.config.image.image_size // model.config.image.patch_size
    return maps.float().cpu().numpy().reshape(len(maps), side, side)


def _words(tokenizer: TextTokenizer, ids: Sequence[int]) -> tuple[list[str], list[int]]:
    """Split a caption into words, and return the word index of each token."""
    words = tokenizer.decode(ids).split()
    owners = []
    for position in range(len(ids)):
        # A token belongs to the last word of the text up to it; a blank belongs to the next word.
        text = tokenizer.decode(ids[: position + 1])
        owner = len(text.split()) - (not text.endswith(" "))
        owners.append(min(max(owner, 0), len(words) - 1))
    return words, owners
