"""Image encoder of kind `timm`: a ConvNet, transformer or hybrid of the library timm, by name.

Dimensions: B batch, P tokens of an image, F features of the model, D width of a token, K classes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from coca.core.errors import ConfigError, did_you_mean
from coca.core.extras import require as require_extra
from coca.model.encoders.base import (
    IMAGE_ENCODERS,
    ImageEncoder,
    ImageEncoderConfig,
    Normalization,
)
from coca.model.layers.prepacked_linear import Linear

IMAGENET_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class TimmConfig(ImageEncoderConfig):
    """A model of timm without its pooling, whose features are a map or a series of tokens."""

    kind: str = "timm"
    name: str
    """Name of the model in timm, such as `tf_efficientnet_lite0`."""
    image_size: PositiveInt = 224
    """Side of the square input in pixels."""
    patch_size: PositiveInt = 32
    """Side of the image area of one token in pixels: the total stride of a ConvNet, mostly 32, or
    the patch of a transformer."""
    width: PositiveInt
    """Features per token. If the model has another number of features, a trained linear layer with
    a layer norm maps them to this width."""
    classes: NonNegativeInt = 0
    """Outputs of the model's own classifier, as its weights have them; 0 leaves it out. It is for
    distillation; captions and embeddings do not use it."""

    def normalization(self) -> Normalization:
        """Return the normalization of the model's own weights."""
        own = _pretrained_config(self.name)
        # Other filters, such as Lanczos or a random choice, are replaced by the closest one.
        interpolation: Literal["bicubic", "bilinear"] = (
            "bilinear" if own.interpolation == "bilinear" else "bicubic"
        )
        return Normalization(tuple(own.mean), tuple(own.std), interpolation)


@IMAGE_ENCODERS.register("timm")
class TimmEncoder(ImageEncoder):
    """A model of timm, and the projection of its features if `width` differs from theirs.

    Batch norms are in evaluation mode wherever their weights are frozen, so that their statistics
    do not change.
    """

    config_class = TimmConfig
    config: TimmConfig

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        # Not on the meta device: some models compute buffers here that no file holds.
        with torch.device("cpu"):
            self.backbone = build_backbone(config)
        features = self.backbone.num_features
        self.extra_tokens = getattr(self.backbone, "num_prefix_tokens", 0)
        self.projection: nn.Sequential | None = None
        if features != config.width:
            self.projection = nn.Sequential(
                Linear(features, config.width), nn.LayerNorm(config.width)
            )

    def features(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B P F"]:
        """Compute the features of the last layer, row by row of the map."""
        height, width = images.shape[2:]
        p = self.config.patch_size
        if height % p or width % p:
            raise ConfigError(
                f"an image of {height} x {width} pixels is not a multiple of patch_size {p}"
            )
        # In this memory layout, convolutions on a CPU take about half the time.
        found = self.backbone.forward_features(images.contiguous(memory_format=torch.channels_last))
        tokens = self._tokens(found)
        expected = (height // p) * (width // p) + self.extra_tokens
        is_dropping = self.training and hasattr(getattr(self.backbone, "patch_drop", 0), "prob")
        if tokens.shape[1] != expected and not is_dropping:
            side = math.isqrt(tokens.shape[1] - self.extra_tokens)
            raise ConfigError(
                f"image.patch_size is {p}, but {self.config.name} makes {side} x {side} tokens of "
                f"an image of {height} x {width} pixels; set it to {height // max(side, 1)}"
            )
        return tokens

    def project(self, features: Float[Tensor, "B P F"]) -> Float[Tensor, "B P D"]:
        """Map features to the width of the tokens."""
        return features if self.projection is None else self.projection(features)

    def classify(self, features: Float[Tensor, "B P F"]) -> Float[Tensor, "B K"]:
        """Compute the logits of the model's own classifier."""
        if not self.config.classes:
            raise ConfigError(
                f"{self.config.name} was built without its classifier; set model.image.classes to "
                f"its number of classes, {IMAGENET_CLASSES} for ImageNet"
            )
        return self.backbone.forward_head(self._untokenized(features))

    @property
    def class_names(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """Class names of ImageNet-1k, in the order of `classify`; None for other classes."""
        if self.config.classes != IMAGENET_CLASSES:
            return None
        names = _timm("timm.data").ImageNetInfo()
        return tuple(names.index_to_description(number) for number in range(IMAGENET_CLASSES))

    def train(self, mode: bool = True) -> "TimmEncoder":
        """Set training mode, except for frozen parts with statistics or random depth."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        for module in self.backbone.modules():
            if isinstance(module, _BatchNorm) and not any(
                parameter.requires_grad for parameter in module.parameters()
            ):
                module.eval()
        return self

    def feature_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of the model itself, without projection and classifier."""
        head = {id(parameter) for parameter in self._classifier().parameters()}
        for name, parameter in self.named_parameters():
            if name.startswith("backbone.") and id(parameter) not in head:
                yield name, parameter

    def feature_state(self) -> dict[str, Tensor]:
        """Return the tensors of the model itself, without projection and classifier."""
        head = {id(tensor) for tensor in self._classifier().state_dict(keep_vars=True).values()}
        return {
            name: tensor.detach()
            for name, tensor in self.state_dict(keep_vars=True).items()
            if name.startswith("backbone.") and id(tensor) not in head
        }

    def state_for(self, image_size: int) -> dict[str, Tensor]:
        """Return the weights with position embeddings for another native image size."""
        state = dict(self.state_dict())
        name = "backbone.pos_embed"
        if image_size != self.config.image_size and name in state:
            side = image_size // self.config.patch_size
            state[name] = _timm("timm.layers").resample_abs_pos_embed(
                state[name], [side, side], num_prefix_tokens=self.extra_tokens
            )
        return state

    def set_patch_dropout(self, fraction: float) -> None:
        """Set the fraction of patches to drop in training; only transformers of timm can."""
        if not hasattr(self.backbone, "patch_drop"):
            if fraction:
                raise ConfigError(
                    f"patch_dropout is {fraction}, but {self.config.name} reads all patches; set "
                    "it to 0"
                )
            return
        dropout = _timm("timm.layers").PatchDropout
        self.backbone.patch_drop = (
            dropout(fraction, num_prefix_tokens=self.extra_tokens) if fraction else nn.Identity()
        )

    def layer_numbers(self) -> dict[str, int]:
        """Return the layer of each parameter of the model itself, by timm's own grouping."""
        groups = _timm("timm.models").group_parameters(
            self.backbone, self.backbone.group_matcher(coarse=False), reverse=True
        )
        own = {name for name, _ in self.feature_parameters()}
        numbers = {f"backbone.{name}": int(layer) for name, layer in groups.items()}
        return {name: layer for name, layer in numbers.items() if name in own}

    def _classifier(self) -> nn.Module:
        return self.backbone.get_classifier()

    def _tokens(self, found: Tensor) -> Float[Tensor, "B P F"]:
        if found.ndim == 3:
            return found
        if self._channels_last:
            return rearrange(found, "B h w F -> B (h w) F")
        return rearrange(found, "B F h w -> B (h w) F")

    def _untokenized(self, features: Float[Tensor, "B P F"]) -> Tensor:
        """Return features in the layout of timm's `forward_features`, of a square image."""
        if hasattr(self.backbone, "num_prefix_tokens"):
            return features
        side = math.isqrt(features.shape[1])
        layout = "B h w F" if self._channels_last else "B F h w"
        return rearrange(features, f"B (h w) F -> {layout}", h=side)

    @property
    def _channels_last(self) -> bool:
        return str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC")


def build_backbone(config: TimmConfig, *, classes: int | None = None) -> Any:
    """Build the model of timm with its own initialization, without pretrained weights.

    Args:
        config: Name and image size.
        classes: Outputs of the classifier; None: those of the configuration.

    Raises:
        ConfigError: timm has no such model, or it has no features of the kind needed here.
        MissingExtraError: timm is not installed.
    """
    own = _pretrained_config(config.name)
    settings: dict[str, Any] = {"num_classes": config.classes if classes is None else classes}
    if own.fixed_input_size:
        settings["img_size"] = config.image_size
    model = _timm().create_model(config.name, pretrained=False, **settings)
    if not (hasattr(model, "forward_features") and hasattr(model, "num_features")):
        raise ConfigError(
            f"image.name is {config.name}, a model without forward_features; choose another one"
        )
    return model


def _pretrained_config(name: str) -> Any:
    timm = _timm()
    own = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if own is None:
        near = did_you_mean(name, get_close_matches(name, timm.list_models(), n=1))
        raise ConfigError(f"image.name is {name!r}, which is no model of timm; {near}")
    return own


def _timm(module: str = "timm") -> Any:
    """Import timm where it is needed: it takes as long as torch."""
    return require_extra(module, extra="train")
