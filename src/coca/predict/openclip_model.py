"""Image-text models of OpenCLIP: CLIP, SigLIP, MobileCLIP, ConvNeXt and EVA, by open_clip_torch.

Dimensions: B batch, S side of the model's input (pixels), L patches, F their features, E
shared embedding, T tokens of a text.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from coca.core.errors import ConfigError, did_you_mean
from coca.core.extras import require
from coca.core.files.atomic import atomic_folder, read_model_json, write_atomic
from coca.model.openclip.openclip_config import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from coca.predict.image_text_predictor import ImageTextPredictor, Placement, library_errors
from coca.processing.preprocess import ImageSettings, openclip_settings

_MOST_NAMES = 3
"""Names of weights that an error lists."""


def published(name: str, also: Sequence[str]) -> Mapping[str, Any]:
    """Look up published weights by `ARCHITECTURE/TAG`; an error may suggest names of `also`.

    Returns:
        OpenCLIP's description: `hf_hub` (repository/file), preprocessing and activation.
    """
    library = require("open_clip", extra="openclip")
    about: Mapping[str, Any] = library.get_pretrained_cfg(*name.partition("/")[::2])
    if not about or not about.get("hf_hub"):
        if names := names_of(name):
            raise ConfigError(f"openclip:{name} is unknown; it needs a tag: {', '.join(names)}")
        known = [f"{model}/{tag}" for model, tag in library.list_pretrained()]
        raise ConfigError(f"openclip:{name} is unknown; {did_you_mean(name, [*known, *also])}")
    return about


def names_of(architecture: str) -> list[str]:
    """List the first weights of an architecture, such as `ViT-B/32` or `coca_ViT-B-32`."""
    library = require("open_clip", extra="openclip")
    wanted = architecture.replace("/", "-").casefold()
    pairs = library.list_pretrained()
    names = [f"openclip:{model}/{tag}" for model, tag in pairs if model.casefold() == wanted]
    return names[:_MOST_NAMES]


def save(architecture: str, about: Mapping[str, Any], weights: Path, folder: Path) -> None:
    """Save a checkpoint as a folder of OpenCLIP: configuration, tokenizer and safetensors."""
    library = require("open_clip", extra="openclip")
    config = library.get_model_config(architecture)
    if config is None:
        near = did_you_mean(architecture, library.list_models())
        raise ConfigError(f"openclip:{architecture} is unknown; {near}")
    # OpenCLIP only warns where the activation of the architecture is not that of the weights.
    config["quick_gelu"] = about.get("quick_gelu", config.get("quick_gelu", False))
    with library_errors(weights):
        model = library.create_model(
            architecture,
            pretrained=str(weights),
            force_quick_gelu=config["quick_gelu"],
            force_preprocess_cfg=library.transform.merge_preprocess_dict({}, about),
        )
        tokenizer = library.get_tokenizer(architecture)
    content = {"model_cfg": config, "preprocess_cfg": model.visual.preprocess_cfg}
    with atomic_folder(folder) as unfinished:
        tensors = {name: it.contiguous().clone() for name, it in model.state_dict().items()}
        save_file(tensors, unfinished / OPEN_CLIP_WEIGHTS[0])
        if hasattr(tokenizer, "save_pretrained"):
            tokenizer.save_pretrained(unfinished)
        write_atomic(unfinished / OPEN_CLIP_CONFIG, json.dumps(content, indent=2).encode())


class OpenCLIPPredictor(ImageTextPredictor):
    """A model of OpenCLIP with its own tokenizer and preprocessing."""

    library = "open_clip_torch"

    def __init__(self, folder: Path, placed: Placement) -> None:
        """Load a folder of OpenCLIP; `coca.load` does so from a name."""
        library = require("open_clip", extra="openclip")
        name = f"local-dir:{folder}"
        with library_errors(folder):
            model = library.create_model(name, require_pretrained=True)
            content = read_model_json(folder / OPEN_CLIP_CONFIG)
            text = content["model_cfg"].get("text_cfg") or {}
            # `tokenizer_kwargs` of the folder may permit its own Python code in transformers.
            safe = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
            self.tokenizer = library.get_tokenizer(name, **safe)
        self._inner: Any = getattr(self.tokenizer, "tokenizer", None)
        if placed.prepack and placed.device.type == "cpu":
            timm = require("timm", extra="openclip")
            model.visual = timm.utils.reparameterize_model(model.visual.eval(), inplace=True)
        super().__init__(
            model,
            folder,
            placed,
            settings=self.settings_of(folder),
            embed_dim=content["model_cfg"]["embed_dim"],
        )

    @staticmethod
    def settings_of(folder: Path) -> ImageSettings:
        """Read the preprocessing of a folder of OpenCLIP, as `open_clip.create_model` does."""
        transform = require("open_clip.transform", extra="openclip")
        content = read_model_json(folder / OPEN_CLIP_CONFIG)
        with library_errors(folder):
            defaults = transform.PreprocessCfg()
            given = transform.merge_preprocess_dict(defaults, content.get("preprocess_cfg"))
            # The size of the architecture takes precedence.
            size = content["model_cfg"]["vision_cfg"].get("image_size", defaults.size)
            return openclip_settings({**given, "size": size}, folder)

    @property
    def context_length(self) -> int:
        return int(self.tokenizer.context_length)

    @property
    def max_text_tokens(self) -> int:
        special = 2 if self._inner is None else self._inner.num_special_tokens_to_add()
        return self.context_length - int(special)

    def leading_ids(self, text: str, count: int) -> list[int]:
        if self._inner is None:
            return list(self.tokenizer.encode(text))[:count]
        text = self.tokenizer.clean_fn(text)
        return list(self._inner.encode(text, add_special_tokens=False))[:count]

    @property
    def vision(self) -> nn.Module:
        return self.model.visual

    def image_features(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
        return self.model.encode_image(images)

    def image_tokens(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B L F"]:
        found = self.model.visual.forward_intermediates(
            images, indices=1, normalize_intermediates=True, intermediates_only=True
        )
        return found["image_intermediates"][0].flatten(2).transpose(1, 2)

    @property
    def pads_to_context(self) -> bool:
        return not self._is_causal

    @property
    def tokenize(self) -> Callable[[Sequence[str]], Int[Tensor, "B T"]]:
        return self.tokenizer

    def text_features(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        if not self._is_causal:
            return self.model.encode_text(tokens)
        text = getattr(self.model, "text", self.model)
        length = tokens.shape[1]
        found = text.token_embedding(tokens) + text.positional_embedding[:length]
        found = text.transformer(found, attn_mask=text.attn_mask[:length, :length])
        # The end token has the highest id.
        ends = tokens.argmax(dim=1)
        found = text.ln_final(found[torch.arange(tokens.shape[0]), ends])
        project = text.text_projection
        return project(found) if isinstance(project, nn.Linear) else found @ project

    @property
    def _is_causal(self) -> bool:
        """Whether no token attends to those after it, and the end token has the result."""
        text = getattr(self.model, "text", self.model)
        pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
        has_mask = getattr(text, "attn_mask", None) is not None
        return has_mask and pool == "argmax" and getattr(text, "cls_emb", None) is None

    def _text_inputs(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        tokens = self.tokenizer(list(texts))
        length = int(tokens.argmax(dim=1).max()) + 1 if self._is_causal else None
        return {"tokens": tokens[:, :length]}

    def _text_output(self, **inputs: Tensor) -> Float[Tensor, "B E"]:
        return self.text_features(**inputs)
