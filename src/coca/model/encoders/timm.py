"""Image encoder of kind `timm`: a ConvNet, transformer or hybrid of the library timm, by name."""

from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coca.core.errors import ConfigError, did_you_mean
from coca.model.encoders.backbone import BackboneConfig, BackboneEncoder, import_timm
from coca.model.encoders.encoder import IMAGE_ENCODERS, Normalization


class TimmConfig(BackboneConfig):
    """A model of timm without its pooling, whose features are a map or a series of tokens."""

    kind: str = "timm"
    name: str
    """Name of the model in timm, such as `tf_efficientnet_lite0`."""

    @property
    def title(self) -> str:
        """Name of the model in timm."""
        return self.name

    def normalization(self) -> Normalization:
        """Return the normalization of the model's own weights."""
        own = _pretrained_config(self.name)
        # Other filters, such as Lanczos or a random choice, are replaced by the closest one.
        interpolation: Literal["bicubic", "bilinear"] = (
            "bilinear" if own.interpolation == "bilinear" else "bicubic"
        )
        return Normalization(tuple(own.mean), tuple(own.std), interpolation)


@IMAGE_ENCODERS.register("timm")
class TimmEncoder(BackboneEncoder):
    """A model of timm as the backbone."""

    config_class = TimmConfig
    config: TimmConfig

    def __init__(self, config: TimmConfig) -> None:
        # Not on the meta device: some models compute buffers here that no file holds.
        with torch.device("cpu"):
            backbone = build_backbone(config, classes=config.classes)
        super().__init__(config, backbone)

    def state_for(self, image_size: int) -> dict[str, Tensor]:
        """Return the weights with position embeddings for another native image size."""
        state = dict(self.state_dict())
        name = "backbone.pos_embed"
        if image_size != self.config.image_size and name in state:
            side = image_size // self.config.patch_size
            state[name] = import_timm("timm.layers").resample_abs_pos_embed(
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
        dropout = import_timm("timm.layers").PatchDropout
        self.backbone.patch_drop = (
            dropout(fraction, num_prefix_tokens=self.extra_tokens) if fraction else nn.Identity()
        )

    def layer_numbers(self) -> dict[str, int]:
        """Return the layer of each parameter of the model itself, by timm's own grouping."""
        groups = import_timm("timm.models").group_parameters(
            self.backbone, self.backbone.group_matcher(coarse=False), reverse=True
        )
        own = {name for name, _ in self.feature_parameters()}
        numbers = {f"backbone.{name}": int(layer) for name, layer in groups.items()}
        return {name: layer for name, layer in numbers.items() if name in own}

    def build_reference(self, classes: int) -> nn.Module:
        """Build the model of timm with a number of classes."""
        return build_backbone(self.config, classes=classes)


def build_backbone(config: TimmConfig, *, classes: int) -> Any:
    """Build the model of timm with its own initialization, without pretrained weights."""
    own = _pretrained_config(config.name)
    settings: dict[str, Any] = {"num_classes": classes}
    if own.fixed_input_size:
        settings["img_size"] = config.image_size
    return import_timm().create_model(config.name, pretrained=False, **settings)


def _pretrained_config(name: str) -> Any:
    timm = import_timm()
    own = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if own is None:
        near = did_you_mean(name, get_close_matches(name, timm.list_models(), n=1))
        raise ConfigError(f"image.name is {name!r}, which is not a model of timm; {near}")
    return own
