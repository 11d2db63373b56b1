"""Base class of encoders with a backbone: a network whose features are projected to tokens.

A backbone has the interface of timm's models: `forward_features`, `forward_head`, `num_features`
and `get_classifier`.

Dimensions: B batch, P and L tokens of an image, F features of the backbone, D width of a token,
K classes.
"""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.core.extras import require as require_extra
from coca.model.encoders.encoder import (
    ImageEncoder,
    ImageEncoderConfig,
    eval_frozen_,
    require,
)
from coca.model.layers.transformer import Linear

IMAGENET_CLASSES = 1000


class BackboneConfig(ImageEncoderConfig):
    """Settings of encoders with a backbone."""

    image_size: PositiveInt = 224
    """Side of the square input in pixels."""
    patch_size: PositiveInt = 32
    width: PositiveInt
    """Features per token. If the backbone has another number of features, a trained linear layer
    with a layer norm maps them to this width."""
    classes: NonNegativeInt = 0
    """Outputs of the backbone's own classifier, as its weights have them; 0 leaves it out. It is
    for distillation, `class_branch` and `class_tokens`."""
    class_branch: bool = False
    """Add a vector for each class, weighted by the probabilities of the backbone's own classifier,
    to the image embedding. So the model keeps the classes that the backbone knows."""
    class_tokens: NonNegativeInt = 0
    """Number of most probable classes whose names the decoder reads as further image tokens,
    weighted by their probabilities; 0: none."""

    @model_validator(mode="after")
    def _check_classes(self) -> "BackboneConfig":
        require(
            self.classes > 0 or not self.class_branch,
            "image.class_branch is true, but image.classes is 0; set it to the classes of the "
            f"backbone's classifier, {IMAGENET_CLASSES} for ImageNet",
        )
        require(
            self.class_tokens <= self.classes,
            f"image.class_tokens must be at most image.classes {self.classes}, got "
            f"{self.class_tokens}",
        )
        return self

    @property
    def title(self) -> str:
        """Name of the backbone in errors."""
        return self.kind


class BackboneEncoder(ImageEncoder):
    """A backbone, and the projection of its features if `width` differs from theirs.

    Frozen layers are in evaluation mode, also in training.
    """

    config: BackboneConfig

    def __init__(self, config: BackboneConfig, backbone: Any) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        features = backbone.num_features
        self.extra_tokens = getattr(backbone, "num_prefix_tokens", 0)
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
                f"image.patch_size is {p}, but {self.config.title} makes {side} x {side} tokens of "
                f"an image of {height} x {width} pixels; set it to {height // max(side, 1)}"
            )
        return tokens

    def project(self, features: Float[Tensor, "B L F"]) -> Float[Tensor, "B L D"]:
        """Map features to the width of the tokens."""
        return features if self.projection is None else self.projection(features)

    def classify(self, features: Float[Tensor, "B L F"]) -> Float[Tensor, "B K"]:
        """Compute the logits of the backbone's own classifier."""
        if not self.config.classes:
            raise ConfigError(
                f"{self.config.title} was built without its classifier; set model.image.classes to "
                f"its number of classes, {IMAGENET_CLASSES} for ImageNet"
            )
        return self.backbone.forward_head(self._as_feature_map(features))

    @property
    def has_classifier(self) -> bool:
        """Whether the backbone has its classifier."""
        return self.config.classes > 0

    @property
    def class_names(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """Class names of ImageNet-1k, in the order of `classify`; None for other classes."""
        if self.config.classes != IMAGENET_CLASSES:
            return None
        names = import_timm("timm.data").ImageNetInfo()
        return tuple(names.index_to_description(number) for number in range(IMAGENET_CLASSES))

    def train(self, mode: bool = True) -> "BackboneEncoder":
        """Set training mode, except for frozen layers."""
        super().train(mode)
        eval_frozen_(self.backbone)
        return self

    def feature_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of the backbone, without projection and classifier."""
        head = {id(parameter) for parameter in self.backbone.get_classifier().parameters()}
        for name, parameter in self.named_parameters():
            if name.startswith("backbone.") and id(parameter) not in head:
                yield name, parameter

    def feature_state(self) -> dict[str, Tensor]:
        """Return the tensors of the backbone and its classifier, without the projection."""
        state = self.state_dict()
        return {name: it for name, it in state.items() if name.startswith("backbone.")}

    def build_reference(self, classes: int) -> nn.Module:
        """Build the backbone with a number of classes, to match weights of other names in order."""
        raise NotImplementedError

    def _tokens(self, found: Tensor) -> Float[Tensor, "B P F"]:
        if found.ndim == 3:
            return found
        if self._channels_last:
            return rearrange(found, "B h w F -> B (h w) F")
        return rearrange(found, "B F h w -> B (h w) F")

    def _as_feature_map(self, features: Float[Tensor, "B P F"]) -> Tensor:
        """Reshape the tokens of a square image to the layout of `forward_features`."""
        if self._makes_series:
            return features
        side = math.isqrt(features.shape[1])
        layout = "B h w F" if self._channels_last else "B F h w"
        return rearrange(features, f"B (h w) F -> {layout}", h=side)

    @cached_property
    def _makes_series(self) -> bool:
        """Whether `forward_features` returns a series of tokens, and not a map."""
        if hasattr(self.backbone, "num_prefix_tokens"):
            return True
        # Of others, such as Hiera, no attribute shows it: a blank image does, computed once.
        side, like = self.config.image_size, next(self.backbone.parameters())
        modes = [(module, module.training) for module in self.backbone.modules()]
        self.backbone.eval()
        try:
            with torch.no_grad():
                found = self.backbone.forward_features(like.new_zeros(1, 3, side, side))
        finally:
            for module, mode in modes:
                module.training = mode
        return found.ndim == 3

    @property
    def _channels_last(self) -> bool:
        return str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC")


def import_timm(module: str = "timm") -> Any:
    """Import timm where it is needed: it takes as long as torch."""
    return require_extra(module, extra="train")
