"""Image encoder of kind `efficientnet_lite`: EfficientNet-Lite0 to Lite4, without other libraries.

EfficientNet (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6;
the depth of the first and last stage and the width of stem and head are not scaled. Modules and
tensors have the names of timm's `tf_efficientnet_lite0` to `tf_efficientnet_lite4`.

Dimensions: B batch, C channels, F features, G final features, P and L positions of their maps,
K classes.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.model.encoders.backbone import BackboneConfig, BackboneEncoder
from coca.model.encoders.encoder import IMAGE_ENCODERS
from coca.model.layers.prepacked import SameConv, conv_norm

STEM, FEATURES = 32, 1280
BN_EPS = 1e-3
"""Added to the variance in batch norms, as in the published weights."""


class Stage(NamedTuple):
    """Stage of EfficientNet-B0: equal blocks, the first of which has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""Table 1 of the paper."""

FACTORS = {
    "lite0": (1.0, 1.0),
    "lite1": (1.0, 1.1),
    "lite2": (1.1, 1.2),
    "lite3": (1.2, 1.4),
    "lite4": (1.4, 1.8),
}
"""Factors on channels and on depth."""


class EfficientNetLiteConfig(BackboneConfig):
    """EfficientNet-Lite with 1,280 features for each area of 32 x 32 pixels.

    Its published sizes are 224, 240, 260, 280 and 300 pixels; here they are multiples of 32.
    """

    kind: str = "efficientnet_lite"
    variant: Literal["lite0", "lite1", "lite2", "lite3", "lite4"] = "lite0"
    """Size of the network."""

    @property
    def title(self) -> str:
        """Kind and variant."""
        return f"efficientnet_{self.variant}"


@IMAGE_ENCODERS.register("efficientnet_lite")
class EfficientNetLiteEncoder(BackboneEncoder):
    """EfficientNet-Lite as the backbone."""

    config_class = EfficientNetLiteConfig
    config: EfficientNetLiteConfig

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config, EfficientNetLite(config.variant, config.classes))
        self._split: int | None = None

    def split_after(self, stages: int) -> None:
        """Let `features` return the output of the first stages, and `finish` run the others."""
        if not 1 <= stages <= len(STAGES):
            raise ConfigError(
                f"stages of {self.config.title} must be in 1 to {len(STAGES)}, got {stages}"
            )
        self._split = stages

    def features(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B P F"]:
        """Compute the features of the last layer, or the output of the first stages if split."""
        if self._split is None:
            return super().features(images)
        pixels = images.contiguous(memory_format=torch.channels_last)
        return self._tokens(self.backbone.forward_stages(pixels, self._split))

    def finish(self, features: Float[Tensor, "B P F"]) -> Float[Tensor, "B L G"]:
        """Run the stages after the split, if there is one."""
        if self._split is None:
            return features
        inner = self._as_feature_map(features).contiguous(memory_format=torch.channels_last)
        return self._tokens(self.backbone.forward_rest(inner, self._split))

    def feature_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that the output of `features` depends on."""
        return ((name, it) for name, it in super().feature_parameters() if self._is_first(name))

    def _is_first(self, name: str) -> bool:
        """Return whether a tensor belongs to the stages before the split."""
        if self._split is None:
            return True
        first = [f"backbone.blocks.{number}." for number in range(self._split)]
        return name.startswith(("backbone.conv_stem", "backbone.bn1", *first))

    @property
    def feature_family(self) -> str:
        """Name of the kind `timm`, whose final features are equal, so both share feature files."""
        return "timm" if self._split is None else f"{self.config.kind}, {self._split} stages"

    def layer_numbers(self) -> dict[str, int]:
        """Return the layer of each parameter: the stem, each block, and the last convolution."""
        prefixes = [
            f"backbone.blocks.{stage}.{block}."
            for stage, blocks in enumerate(self.backbone.blocks)
            for block in range(len(blocks))
        ]
        numbers = {}
        for name, _ in self.feature_parameters():
            within = [
                number for number, prefix in enumerate(prefixes, 1) if name.startswith(prefix)
            ]
            is_stem = name.startswith(("backbone.conv_stem", "backbone.bn1"))
            numbers[name] = within[0] if within else (0 if is_stem else len(prefixes))
        return numbers

    def build_reference(self, classes: int) -> nn.Module:
        """Build the network with a number of classes."""
        return EfficientNetLite(self.config.variant, classes)


class EfficientNetLite(nn.Module):
    """The network: stem, seven stages, a convolution to the features, and the classifier."""

    num_features = FEATURES

    def __init__(self, variant: str, classes: int) -> None:
        super().__init__()
        wider, deeper = FACTORS[variant]
        self.conv_stem = SameConv(3, STEM, 3, stride=2)
        self.bn1 = _norm(STEM)
        stages: list[nn.Module] = []
        channels = STEM
        for number, stage in enumerate(STAGES):
            is_scaled = 0 < number < len(STAGES) - 1
            count = math.ceil(stage.blocks * deeper) if is_scaled else stage.blocks
            out = _rounded(stage.channels * wider)
            blocks: list[nn.Module] = []
            for block in range(count):
                stride = stage.stride if block == 0 else 1
                blocks.append(
                    InvertedResidual(channels, out, stage.kernel, stride, stage.expansion)
                    if stage.expansion > 1
                    else DepthwiseSeparable(channels, out, stage.kernel, stride)
                )
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = SameConv(channels, FEATURES, 1)
        self.bn2 = _norm(FEATURES)
        self.classifier = nn.Linear(FEATURES, classes) if classes else nn.Identity()

    def forward_features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F h w"]:
        """Compute the map of features, of a 32nd of the height and width."""
        return self.forward_rest(self.forward_stages(images, 0), 0)

    def forward_stages(
        self, images: Float[Tensor, "B 3 H W"], stages: int
    ) -> Float[Tensor, "B C h w"]:
        """Compute the output of the stem and of the first stages."""
        inner = conv_norm(self.conv_stem, self.bn1, images, relu6=True)
        return self.blocks[:stages](inner)

    def forward_rest(
        self, inner: Float[Tensor, "B C H W"], stages: int
    ) -> Float[Tensor, "B F h w"]:
        """Compute the features from the output of the first stages."""
        return conv_norm(self.conv_head, self.bn2, self.blocks[stages:](inner), relu6=True)

    def forward_head(self, features: Float[Tensor, "B F h w"]) -> Float[Tensor, "B K"]:
        """Compute the class logits from the mean of the features."""
        return self.classifier(features.mean((2, 3)))

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.classifier


class DepthwiseSeparable(nn.Module):
    """A depthwise convolution, then a linear pointwise one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv(inputs, inputs, kernel, stride, groups=inputs)
        self.bn1 = _norm(inputs)
        self.conv_pw = SameConv(inputs, outputs, 1)
        self.bn2 = _norm(outputs)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        inner = conv_norm(self.conv_dw, self.bn1, images, relu6=True)
        inner = conv_norm(self.conv_pw, self.bn2, inner, relu6=False)
        return inner + images if self.is_residual else inner


class InvertedResidual(nn.Module):
    """A pointwise expansion, a depthwise convolution, and a linear pointwise projection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.conv_pw = SameConv(inputs, middle, 1)
        self.bn1 = _norm(middle)
        self.conv_dw = SameConv(middle, middle, kernel, stride, groups=middle)
        self.bn2 = _norm(middle)
        self.conv_pwl = SameConv(middle, outputs, 1)
        self.bn3 = _norm(outputs)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        inner = conv_norm(self.conv_pw, self.bn1, images, relu6=True)
        inner = conv_norm(self.conv_dw, self.bn2, inner, relu6=True)
        inner = conv_norm(self.conv_pwl, self.bn3, inner, relu6=False)
        return inner + images if self.is_residual else inner


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BN_EPS)


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, and not down by more than a tenth."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
