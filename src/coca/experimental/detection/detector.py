"""Object detector: a captioner's image encoder, a simple feature pyramid and torchvision's FCOS.

FCOS (arXiv 1904.01355) predicts for each location of each map the class, the distances to the four
sides of its box, and the centerness.

Dimensions: B batch, P patches, D width of the tokens, C channels of the maps; h, w a map's sides;
B images, S side of the model's square input in pixels, N boxes of an image, A locations of all
maps, D width of the tokens.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypedDict

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from coca.core.config.frozen_config import Config, Fraction, from_dict, to_dict
from coca.core.errors import ConfigError, ModelError
from coca.core.files.atomic import read_model_json, write_atomic, write_json
from coca.model.coca import CoCa
from coca.model.losses.collectives import all_reduce_sum, world_size
from coca.model.openclip.state_dict_io import read_state

# Simple feature pyramid on a Vision Transformer (ViTDet, arXiv 2203.16527).


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
        """Compute one feature map per scale, in the order of the scales."""
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


CONFIG_FILE, WEIGHTS_FILE = "detector.json", "detector.safetensors"
FORMAT_VERSION = 2
"""Version of saved detectors."""
_ENCODER = "backbone.image_encoder."
_GROUPS = 32  # of the norms in torchvision's head


class Boxes(TypedDict):
    """Ground-truth objects of an image."""

    boxes: Float[Tensor, "N 4"]
    """Left, top, right, bottom in pixels of the model's input."""
    labels: Int[Tensor, " N"]
    """Class indices."""


class DetectorConfig(Config):
    """Configuration of the detector on top of the image encoder."""

    classes: tuple[str, ...] = ()
    """Class names in the order of the outputs."""
    channels: Annotated[int, Field(gt=0, multiple_of=_GROUPS)] = 256
    """Channels of each feature map; a multiple of 32."""
    scales: tuple[PositiveFloat, ...] = (4.0, 2.0, 1.0, 0.5)
    """Sides of the feature maps, relative to the grid of patches. Fewer maps are faster; the
    largest map detects the smallest objects."""
    score_threshold: Fraction = 0.05
    """Boxes with a lower score are dropped; 0 to 1."""
    overlap_threshold: Fraction = 0.5
    """Non-maximum suppression: of two boxes of one class with a larger intersection over union, the
    box with the lower score is dropped."""
    most_boxes: PositiveInt = 100
    """Maximum number of boxes per image."""

    @model_validator(mode="after")
    def _check_rules(self) -> "DetectorConfig":
        if len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes must be different names (got {list(self.classes)})")
        if list(self.scales) != sorted(self.scales, reverse=True):
            raise ConfigError(f"scales must be in descending order (got {list(self.scales)})")
        return self


class _Backbone(nn.Module):
    """Image encoder and feature pyramid with the backbone interface of torchvision's detectors."""

    def __init__(self, captioner: CoCa, config: DetectorConfig) -> None:
        super().__init__()
        image = captioner.config.image
        self.image_encoder = captioner.image_encoder
        self.pyramid = FeaturePyramid(image.width, config.channels, config.scales)
        self.out_channels = config.channels
        self._patch_size = image.patch_size
        # Such as a class token, which has no location in the image.
        self._extra_tokens = captioner.image_encoder.extra_tokens

    def forward(self, images: Float[Tensor, "B RGB h w"]) -> OrderedDict[str, Tensor]:
        tokens = self.image_encoder(images)[:, self._extra_tokens :]
        grid = images.shape[2] // self._patch_size, images.shape[3] // self._patch_size
        maps = self.pyramid(tokens, grid)
        return OrderedDict((str(number), one) for number, one in enumerate(maps))


class CellCentres(AnchorGenerator):
    """Place one location at the centre of each cell of each map, in fp32.

    A cell of a map is `patch_size / scale` pixels wide, which may be fractional: 4.5 at patch size
    18 and scale 4. torchvision derives an integer stride from the sizes of image and map, and
    places locations at the corners. At patch size 18, its locations end 36 pixels before the border
    of an image of 288 pixels.
    """

    def __init__(self, strides: Sequence[float]) -> None:
        super().__init__(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
        self.strides = tuple(strides)

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Float[Tensor, "A 4"]]:
        """Return for each image the square cell around each location, in pixels of the input."""
        cells = torch.cat(
            [
                _cells(one.shape[2], one.shape[3], stride, one.device)
                for stride, one in zip(self.strides, maps, strict=True)
            ]
        )
        return [cells] * len(images.image_sizes)


def _cells(h: int, w: int, stride: float, device: torch.device) -> Float[Tensor, "hw 4"]:
    """Return left, top, right, bottom of each cell of a map, in row-major order."""
    top, left = torch.meshgrid(
        torch.arange(h, dtype=torch.float32, device=device) * stride,
        torch.arange(w, dtype=torch.float32, device=device) * stride,
        indexing="ij",
    )
    corner = torch.stack((left, top), dim=-1).reshape(-1, 2)
    return torch.cat((corner, corner + stride), dim=1)


class DetectionHead(FCOSHead):
    """torchvision's FCOS head, with outputs in fp32 and losses normalized over all ranks.

    In bf16, a box of an image of 576 pixels would be off by up to 2 pixels.
    """

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return {name: output.float() for name, output in super().forward(maps).items()}

    def compute_loss(
        self,
        targets: list[Boxes],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute the losses, divided by the mean number of foreground locations over ranks.

        torchvision divides by this rank's own number. The mean over ranks would then give more
        weight to the boxes of a rank with few of them.
        """
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        own = torch.stack([(match >= 0).sum() for match in matched_idxs]).sum().float()
        scale = own.clamp(min=1) * world_size() / all_reduce_sum(own).clamp(min=1)
        return {name: loss * scale for name, loss in losses.items()}


class _IdentityTransform(GeneralizedRCNNTransform):
    """Leaves images at the processor's size; torchvision would resize them to 800 pixels."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


class Detector(FCOS):
    """FCOS detector on a captioner's image encoder, which is shared and not copied.

    In training mode, `forward` takes images and their `Boxes` and returns losses by name. In
    evaluation mode, it returns `boxes`, `scores` and `labels` of each image.
    """

    def __init__(self, captioner: CoCa, config: DetectorConfig) -> None:
        if not config.classes:
            raise ConfigError("classes is empty; a detector needs something to find")
        patch_size = captioner.config.image.patch_size
        super().__init__(
            _Backbone(captioner, config),
            num_classes=len(config.classes),
            anchor_generator=CellCentres([patch_size / scale for scale in config.scales]),
            head=DetectionHead(config.channels, 1, len(config.classes)),
            score_thresh=config.score_threshold,
            nms_thresh=config.overlap_threshold,
            detections_per_img=config.most_boxes,
        )
        self.transform = _IdentityTransform(0, 0, [0.0] * 3, [1.0] * 3, size_divisible=1)
        self.config = config


def save_detector(folder: str | Path, detector: Detector) -> None:
    """Save the detector without the encoder, which is in the captioner's files of this folder."""
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in detector.state_dict().items()
        if not name.startswith(_ENCODER)
    }
    write_atomic(Path(folder) / WEIGHTS_FILE, save(state, metadata={"format": "pt"}))
    content = {"format_version": FORMAT_VERSION, "detector": to_dict(detector.config)}
    write_json(Path(folder) / CONFIG_FILE, content)


def load_detector(folder: str | Path, captioner: CoCa) -> Detector:
    """Load a detector onto its captioner, in evaluation mode."""
    path = Path(folder) / CONFIG_FILE
    content = read_model_json(
        path,
        missing=f"{folder} has no detector ({CONFIG_FILE}); `coca finetune-detection` makes one",
    )
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{path} has format_version {version}; this version of coca reads {FORMAT_VERSION}: "
            "train the detector again"
        )
    try:
        settings = from_dict(DetectorConfig, content.get("detector", {}), source=str(path))
        detector = Detector(captioner, settings)
    except ConfigError as error:
        raise ModelError(str(error)) from None
    weights = read_state(Path(folder) / WEIGHTS_FILE)
    wanted = {
        name: tensor.shape
        for name, tensor in detector.state_dict().items()
        if not name.startswith(_ENCODER)
    }
    if {name: tensor.shape for name, tensor in weights.items()} != wanted:
        raise ModelError(f"{folder}/{WEIGHTS_FILE} does not fit {CONFIG_FILE} and the encoder")
    detector.load_state_dict(weights, strict=False)
    return detector.to(captioner.log_scale.device).eval()
