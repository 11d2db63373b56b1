"""Image-text models of transformers: CLIP, SigLIP, SigLIP 2, Chinese-CLIP and AltCLIP.

SigLIP 2 of one size has the class of SigLIP; images of NaFlex keep their aspect ratio, and the
library's processor cuts them into patches. Images are resized by Pillow, as in training and as by
the library's own image processors of `backend="pil"`.

Dimensions: B batch, S side of the model's input (pixels), L patches, F their features, E shared
embedding, T tokens of a text.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from coca.core.errors import ModelError
from coca.core.extras import require
from coca.predict.image_text_predictor import (
    ImageTextPredictor,
    Placement,
    as_array,
    as_pillow,
    library_errors,
)
from coca.processing.preprocess import ImageSettings, unresized

PILLOW_FILTERS: dict[int, Literal["bicubic", "bilinear"]] = {2: "bilinear", 3: "bicubic"}


class OwnTokenizer(ImageTextPredictor):
    """A model of transformers with its own tokenizer."""

    library = "transformers"
    _positions: int
    """Positions of the text encoder that tokens can have."""

    @property
    def context_length(self) -> int:
        return min(self._positions, int(self.tokenizer.model_max_length))

    @property
    def max_text_tokens(self) -> int:
        return self.context_length - int(self.tokenizer.num_special_tokens_to_add())

    def leading_ids(self, text: str, count: int) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)[:count]


class TransformersPredictor(OwnTokenizer):
    """A model of transformers with its own tokenizer and preprocessing."""

    def __init__(self, folder: Path, placed: Placement) -> None:
        """Load a folder of transformers; `coca.load` does so from a name."""
        model, self.tokenizer = read_weights(folder)
        text = model.config.text_config
        self._positions = int(text.max_position_embeddings)
        if model.config.model_type == "altclip":
            # XLM-RoBERTa numbers its positions from the one after the padding token.
            self._positions -= text.pad_token_id + 1
        # SigLIP was trained with padding that it attends to.
        is_siglip = model.config.model_type in ("siglip", "siglip2")
        self._padding = "max_length" if is_siglip else "longest"
        images = _image_processor(folder)
        self._patches = images if _is_naflex(images) else None
        size = getattr(model.config, "projection_dim", None) or text.projection_size
        settings = self.settings_of(folder)
        super().__init__(model, folder, placed, settings=settings, embed_dim=int(size))

    @staticmethod
    def settings_of(folder: Path) -> ImageSettings:
        """Read the preprocessing of a folder of transformers."""
        images = _image_processor(folder)
        return unresized() if _is_naflex(images) else _image_settings(images, folder)

    @property
    def vision(self) -> nn.Module:
        return self.model.vision_model

    def image_features(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
        return _pooled(self.model.get_image_features(images))

    def image_tokens(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B L F"]:
        tokens: Tensor = self.vision(images).last_hidden_state
        if self.model.config.model_type == "siglip":
            return tokens
        # CLIP and its relatives normalize the class token only, which comes first.
        return self.model.vision_model.post_layernorm(tokens[:, 1:])

    @torch.inference_mode()
    def _image_features(self, pixels: Any) -> Float32[np.ndarray, "B E"]:
        if self._patches is None:
            return super()._image_features(pixels)
        inputs = self._patches([as_pillow(it) for it in pixels], return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].to(self._dtype)
        return as_array(_pooled(self.model.get_image_features(**inputs.to(self._device))))

    @property
    def pads_to_context(self) -> bool:
        return self._padding == "max_length"

    @property
    def tokenize(self) -> Callable[[Sequence[str]], Int[Tensor, "B T"]]:
        return partial(_token_ids, self.tokenizer, self._padding, self.context_length)

    def text_features(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        # CLIP needs no mask: it is causal, and may pad by its end token. SigLIP was trained without
        # one, and has one where its tokenizer returns it.
        is_clip = self.model.config.model_type == "clip"
        has_mask = "attention_mask" in self.tokenizer.model_input_names and not is_clip
        mask = (tokens != self.tokenizer.pad_token_id).long() if has_mask else None
        return _pooled(self.model.get_text_features(tokens, attention_mask=mask))

    def _text_inputs(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        return self.tokenizer(
            list(texts),
            padding=self._padding,
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )

    def _text_output(self, **inputs: Tensor) -> Float[Tensor, "B E"]:
        return _pooled(self.model.get_text_features(**inputs))


def read_weights(folder: Path) -> tuple[Any, Any]:
    """Read the model of a folder of transformers, in fp32, and its tokenizer."""
    library = require("transformers", extra="transformers")
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with library_errors(folder):
        model, report = library.AutoModel.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **local
        )
        tokenizer = library.AutoTokenizer.from_pretrained(folder, **local)
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{folder} lacks weights of the model, such as {missing[0]}")
    return model, tokenizer


def _token_ids(
    tokenizer: Any, padding: str, length: int, texts: Sequence[str]
) -> Int[Tensor, "B T"]:
    return tokenizer(
        list(texts), padding=padding, truncation=True, max_length=length, return_tensors="pt"
    ).input_ids


def _pooled(output: Any) -> torch.Tensor:
    features: torch.Tensor = output.pooler_output
    return features


def _image_processor(folder: Path) -> Any:
    library = require("transformers", extra="transformers")
    with library_errors(folder):
        return library.AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )


def _is_naflex(images: Any) -> bool:
    """Check whether an image processor cuts images of any shape into patches."""
    return hasattr(images, "max_num_patches")


def _image_settings(images: Any, folder: Path) -> ImageSettings:
    """Read the settings of an image processor."""
    given = images.to_dict()
    size, crop = dict(given.get("size") or {}), dict(given.get("crop_size") or {})
    short, side = size.get("shortest_edge"), size.get("height")
    resize: Literal["squash", "shortest_floor"]
    crops = bool(given.get("do_center_crop")) and crop
    if side and side == size.get("width") and (not crops or crop["height"] == side):
        resize, length = "squash", side
    elif short and crops and crop["height"] == crop["width"] == short:
        resize, length = "shortest_floor", short
    else:
        raise ModelError(f"{folder} resizes images to {size}, which is not one square")
    steps = ("do_resize", "do_rescale", "do_normalize")
    if left_out := [name for name in steps if given.get(name) is False]:
        raise ModelError(
            f"{folder} prepares images with {left_out[0]} false; only models that resize, rescale "
            "and normalize them are supported"
        )
    if not math.isclose(given.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise ModelError(
            f"{folder} rescales pixels by {given['rescale_factor']}; only 1/255 is supported"
        )
    if given.get("resample") not in PILLOW_FILTERS:
        raise ModelError(f"{folder} resizes images by the filter {given.get('resample')}")
    return ImageSettings(
        image_size=int(length),
        resize=resize,
        trim=False,
        mean=tuple(given["image_mean"]),
        std=tuple(given["image_std"]),
        interpolation=PILLOW_FILTERS[given["resample"]],
        reduced=False,
    )
