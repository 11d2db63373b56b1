"""What a model looked at, for people: arrays over the image, and drawings of them.

    maps = explain_caption(predictor, "cat.jpg")
    Path("maps.png").write_bytes(draw_word_maps(maps))

Dimensions: S side of the model's input (pixels), W words, h and w patches along the sides.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from coca.core.errors import ConfigError
from coca.core.extras import require
from coca.inference.captioning import Caption
from coca.inference.inputs import Picture
from coca.inference.predictor import Predictor
from coca.model.attribution import cross_attention_maps, patch_attributions
from coca.processing.tokenizer import TextTokenizer

COLUMNS = 6
"""Tiles a row in a drawing."""


@dataclass(frozen=True)
class WordMaps:
    """Where the decoder looked for each word of a caption."""

    picture: UInt8[ndarray, "S S 3"]
    """What the model saw."""
    words: tuple[str, ...]
    """The words of the caption."""
    maps: Float[ndarray, "W h w"]
    """Shares of the image's patches; they sum to 1 for each word."""

    @property
    def contrast(self) -> Float[ndarray, "W h w"]:
        """The maps over what they have in common: 1 where a word looked as often as the others.

        Some patches, often of plain background, draw attention whatever the word is.
        """
        return self.maps / self.maps.mean(axis=0)


@dataclass(frozen=True)
class MatchMap:
    """How much each patch of an image speaks for a text."""

    picture: UInt8[ndarray, "S S 3"]
    """What the model saw."""
    text: str
    cosine: float
    """Similarity of the image and the text, -1 to 1."""
    patch_attributions: Float[ndarray, "h w"]
    """What each patch adds to the cosine, or takes away."""
    rest: float
    """What no patch adds; the cosine is the sum of it all."""


@torch.inference_mode()
def explain_caption(
    predictor: Predictor,
    image: Picture,
    *,
    caption: str | Caption | None = None,
    prompt: str = "",
) -> WordMaps:
    """Gives where the model looked while it wrote a caption, or would have for a given one.

    Args:
        predictor: A loaded model.
        image: The image.
        caption: A text, or what the model wrote of the image; default: what it writes now.
        prompt: What a caption of the model goes on from; a text holds it already.

    Raises:
        DataError: The image cannot be read.
        ConfigError: The caption is empty or too long for the model.
    """
    tokenizer, text = predictor.processor.tokenizer, predictor.model.config.text
    if isinstance(caption, str):
        ids = tokenizer.encode_prompt(caption)
    else:
        written = caption or predictor.caption(image, prompt=prompt)[0]
        ids = [*tokenizer.encode_prompt(prompt), *written.token_ids]
    if not 1 < len(ids) <= text.max_text_tokens + 1:
        raise ConfigError(
            f"a caption of {len(ids) - 1} tokens cannot be explained; it needs 1 to "
            f"{text.max_text_tokens}"
        )
    pixels = _pixels(predictor, image)
    device = predictor.model.log_scale.device
    # The map of a word stands at the token before it.
    maps = cross_attention_maps(predictor.model, pixels, torch.tensor([ids], device=device))[0, :-1]
    words, owners = _words(tokenizer, ids[1:])
    merged = [
        maps[[place for place, _ in group]].mean(dim=0)
        for _, group in groupby(enumerate(owners), key=lambda pair: pair[1])
    ]
    grid = _grid(predictor, torch.stack(merged))
    return WordMaps(_seen(predictor, pixels), tuple(words), grid)


@torch.inference_mode()
def explain_match(predictor: Predictor, image: Picture, text: str) -> MatchMap:
    """Gives which parts of an image make it similar to a text, and which make it less so.

    Raises:
        DataError: The image cannot be read.
    """
    pixels = _pixels(predictor, image)
    direction = torch.from_numpy(predictor.embed_texts(text)).to(pixels)
    each, rest = patch_attributions(predictor.model, pixels, direction)
    return MatchMap(
        _seen(predictor, pixels),
        text,
        float(each.sum() + rest),
        _grid(predictor, each)[0],
        float(rest),
    )


def draw_word_maps(maps: WordMaps, *, columns: int = COLUMNS) -> bytes:
    """Draws the image and beside it one heat map a word, as PNG.

    Red is where the model looked more for this word than for the others, blue where less.

    Raises:
        MissingExtraError: The extra `report` is not installed.
    """
    heats = np.log2(maps.contrast)
    limit = _limit(heats)
    ends = (f"{2**-limit:.1g} times", "as the others", f"{2**limit:.2g} times")
    return _drawn(maps.picture, list(zip(maps.words, heats, strict=True)), limit, ends, columns)


def draw_match_maps(matches: Sequence[MatchMap], *, columns: int = COLUMNS) -> bytes:
    """Draws an image and beside it one heat map a text, as PNG: red speaks for it, blue against.

    Args:
        matches: Of one image.
        columns: Tiles a row.

    Raises:
        MissingExtraError: The extra `report` is not installed.
    """
    # Around their mean: what all patches add alike says nothing about places.
    heats = [match.patch_attributions - match.patch_attributions.mean() for match in matches]
    limit = _limit(np.stack(heats))
    titles = [f"{match.text}\n{match.cosine:.2f}" for match in matches]
    ends = (f"{-limit:.2g}", "cosine", f"+{limit:.2g}")
    return _drawn(matches[0].picture, list(zip(titles, heats, strict=True)), limit, ends, columns)


def _limit(heats: Float[ndarray, "W h w"]) -> float:
    """Where the colours end: a few patches that stand out shall not leave the others pale."""
    return max(float(np.quantile(np.abs(heats), 0.98)), 1e-6)


def _drawn(
    picture: UInt8[ndarray, "S S 3"],
    tiles: Sequence[tuple[str, Float[ndarray, "h w"]]],
    limit: float,
    ends: tuple[str, str, str],
    columns: int,
) -> bytes:
    """Draws heats from `-limit` to `limit`, which a scale names by its `ends` and its middle."""
    require("matplotlib", extra="report")
    # The object interface: no global state, no display.
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    rows = -(-(len(tiles) + 1) // columns)
    # Rows of like length, the last one as full as the others.
    columns = -(-(len(tiles) + 1) // rows)
    height = 2.15 * rows + 0.6
    figure = Figure(figsize=(1.8 * columns, height), layout="constrained", dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    side = picture.shape[0]
    gray = picture.mean(axis=2)
    settings: dict[str, Any] = {
        "extent": (0, side, side, 0),
        "cmap": "RdBu_r",
        "interpolation": "bicubic",
    }
    for place in axes:
        place.set_axis_off()
    axes[0].imshow(picture, extent=settings["extent"])
    for place, (title, heat) in zip(axes[1:], tiles, strict=False):
        place.imshow(gray, extent=settings["extent"], cmap="gray", vmin=0, vmax=255)
        # The image is covered only where there is something to tell.
        cover = 0.85 * np.minimum(np.abs(heat / limit), 1) ** 0.7
        drawn = place.imshow(heat, vmin=-limit, vmax=limit, alpha=cover, **settings)
        # A caption may hold what matplotlib takes for a formula.
        place.set_title(title, fontsize=10, parse_math=False)
    scale = ScalarMappable(drawn.norm, settings["cmap"])
    bar = figure.colorbar(
        scale, ax=axes, location="bottom", aspect=40, fraction=0.12 / height, extend="both"
    )
    bar.set_ticks([-limit, 0, limit], labels=ends)
    bar.outline.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _pixels(predictor: Predictor, image: Picture) -> Float[Tensor, "1 3 S S"]:
    scale = predictor.model.log_scale
    return predictor.processor.images([image]).to(scale.device, scale.dtype)


def _seen(predictor: Predictor, pixels: Float[Tensor, "1 3 S S"]) -> UInt8[ndarray, "S S 3"]:
    config = predictor.processor.image_config
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    shown = (pixels[0].float().cpu() * std + mean).clamp(0, 1) * 255
    return shown.round().to(torch.uint8).permute(1, 2, 0).numpy()


def _grid(predictor: Predictor, maps: Float[Tensor, "W P"]) -> Float[ndarray, "W h w"]:
    side = predictor.processor.image_config.image_size // predictor.model.config.image.patch_size
    return maps.float().cpu().numpy().reshape(len(maps), side, side)


def _words(tokenizer: TextTokenizer, ids: Sequence[int]) -> tuple[list[str], list[int]]:
    """The words of a caption, and which of them each token belongs to."""
    words = tokenizer.decode(ids).split()
    owners = []
    for place in range(len(ids)):
        # A token belongs to the word that the text up to it ends with, a blank to the one behind.
        text = tokenizer.decode(ids[: place + 1])
        owner = len(text.split()) - (not text.endswith(" "))
        owners.append(min(max(owner, 0), len(words) - 1))
    return words, owners
