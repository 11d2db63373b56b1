"""Image augmentation: random crop, affine, colour, RandAugment, outline and erasing.

Dimensions: H, W the image's height and width; S the side of the model's square input, pixels.
RandAugment follows Cubuk et al. 2019, table 1 and the ranges of torchvision.
"""

import math
from collections.abc import Callable
from typing import Annotated, TypeAlias

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from jaxtyping import Float, UInt8
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from coca.core.config.frozen_config import Config, Fraction
from coca.core.registry import Registry
from coca.processing.image import ImageConfig, ImageTransform

MAX_MAGNITUDE = 30
"""Upper end of RandAugment's magnitude scale; the paper searches 4 to 30."""


AffineMatrix: TypeAlias = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Maps a position (x, y, 1) of the output to the input image, which spans -1 to 1."""


class AugmentConfig(Config):
    """Configuration of the random augmentations; all are off by default."""

    min_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest fraction of the area that a random crop keeps, in (0, 1]; 1 disables cropping."""

    ratio: Annotated[float, Field(ge=1)] = 4 / 3
    """Largest change of the aspect ratio by a crop, as a factor; at least 1."""

    flip: Fraction = 0.0
    """Probability of a horizontal flip. Harmful if captions mention left and right."""

    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation in either direction, degrees, 0 to 180; corners become white."""

    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest change of scale up or down, as a fraction, in [0, 1); the rim becomes white."""

    translate: Fraction = 0.0
    """Largest shift along each side, as a fraction of it, 0 to 1; the rim becomes white."""

    color: Fraction = 0.0
    """Largest change of brightness, contrast and saturation, as a fraction, 0 to 1."""

    grayscale: Fraction = 0.0
    """Probability of conversion to grayscale."""

    outline: Fraction = 0.0
    """Probability of dark outlines along edges. For drawings, which come with and without them."""

    rand_augment: tuple[PositiveInt, Annotated[int, Field(ge=0, le=MAX_MAGNITUDE)]] | None = None
    """RandAugment's number of operations and their magnitude, 0 to 30, such as (2, 10)."""

    erase: Fraction = 0.0
    """Probability of random erasing: a box of 2 to 33 % of the area gets the mean colour."""

    extra: tuple[str, ...] = ()
    """Augmentations that a plugin registers, applied in this order after all others."""

    @model_validator(mode="after")
    def _check_rules(self) -> "AugmentConfig":
        for name in self.extra:
            AUGMENTATIONS.get(name)
        return self


AugmentationStep: TypeAlias = Callable[
    [UInt8[Tensor, "3 S S"], torch.Generator], UInt8[Tensor, "3 S S"]
]
"""(pixels from 0 to 255, generator of the sample) -> pixels of the same shape."""

AUGMENTATIONS: Registry[AugmentationStep] = Registry("augmentation", "augmentations")


def warp(values: Float[Tensor, "3 S S"], matrix: AffineMatrix) -> Float[Tensor, "3 S S"]:
    """Warp an image (0 to 255) by an affine map, with white outside."""
    shape = [1, *values.shape]
    grid = F.affine_grid(torch.tensor([matrix]), shape, align_corners=False)
    # Positions outside are sampled as 0, so white is shifted to 0 meanwhile.
    return F.grid_sample(values[None] - 255, grid, align_corners=False)[0] + 255


def inked(values: Float[Tensor, "3 S S"]) -> Float[Tensor, "3 S S"]:
    """Draw dark lines along the edges of an image (0 to 255)."""
    light = values.mean(0, keepdim=True)
    # Morphological gradient: maximum minus minimum of the 3 x 3 neighbourhood.
    jump = F.max_pool2d(light, 3, 1, 1) + F.max_pool2d(-light, 3, 1, 1)
    return (values - 1.5 * jump).clamp_(0, 255)


def recolor(
    values: Float[Tensor, "3 S S"], *, brightness: float, contrast: float, saturation: float
) -> Float[Tensor, "3 S S"]:
    """Change brightness, then contrast around the mean grey, then saturation; 1 is the identity.

    All three are linear, so one 3 x 3 matrix applies them; the result is clamped to 0 to 255.
    """
    luma = torch.tensor([0.299, 0.587, 0.114])
    mix = saturation * torch.eye(3) + (1 - saturation) * luma  # (channel out, channel in)
    mean_gray = brightness * values.mean((1, 2)) @ luma
    mixed = (brightness * contrast * mix) @ values.flatten(1) + (1 - contrast) * mean_gray
    return mixed.view_as(values).clamp_(0, 255)


def _warp_bytes(pixels: UInt8[Tensor, "3 S S"], matrix: AffineMatrix) -> UInt8[Tensor, "3 S S"]:
    return warp(pixels.float(), matrix).round_().to(torch.uint8)


def _rotate(pixels: UInt8[Tensor, "3 S S"], strength: float) -> UInt8[Tensor, "3 S S"]:
    angle = math.radians(30 * strength)
    cos, sin = math.cos(angle), math.sin(angle)
    return _warp_bytes(pixels, ((cos, -sin, 0.0), (sin, cos, 0.0)))


# Operations of RandAugment: map pixels and a strength from -1 to 1 to pixels. Operations without
# a direction use the absolute strength.
RAND_OPERATIONS: dict[str, Callable[[UInt8[Tensor, "3 S S"], float], UInt8[Tensor, "3 S S"]]] = {
    "identity": lambda pixels, s: pixels,
    "autocontrast": lambda pixels, s: TF.autocontrast(pixels),
    "equalize": lambda pixels, s: TF.equalize(pixels),
    "rotate": _rotate,
    "shear_x": lambda pixels, s: _warp_bytes(pixels, ((1.0, 0.3 * s, 0.0), (0.0, 1.0, 0.0))),
    "shear_y": lambda pixels, s: _warp_bytes(pixels, ((1.0, 0.0, 0.0), (0.3 * s, 1.0, 0.0))),
    "translate_x": lambda pixels, s: _warp_bytes(pixels, ((1.0, 0.0, 0.9 * s), (0.0, 1.0, 0.0))),
    "translate_y": lambda pixels, s: _warp_bytes(pixels, ((1.0, 0.0, 0.0), (0.0, 1.0, 0.9 * s))),
    "brightness": lambda pixels, s: TF.adjust_brightness(pixels, 1 + 0.9 * s),
    "color": lambda pixels, s: TF.adjust_saturation(pixels, 1 + 0.9 * s),
    "contrast": lambda pixels, s: TF.adjust_contrast(pixels, 1 + 0.9 * s),
    "sharpness": lambda pixels, s: TF.adjust_sharpness(pixels, 1 + 0.9 * s),
    "posterize": lambda pixels, s: TF.posterize(pixels, 8 - round(4 * abs(s))),
    # Torchvision's threshold starts at 255, which inverts white even at magnitude 0.
    "solarize": lambda pixels, s: pixels.where(pixels < 256 * (1 - abs(s)), 255 - pixels),
}


def rand_augment(
    pixels: UInt8[Tensor, "3 S S"], number: int, magnitude: int, generator: torch.Generator
) -> UInt8[Tensor, "3 S S"]:
    """Apply `number` random operations of `RAND_OPERATIONS` in sequence at equal magnitude."""
    operations = tuple(RAND_OPERATIONS.values())
    for choice, sign in torch.rand(number, 2, generator=generator).tolist():
        strength = math.copysign(magnitude / MAX_MAGNITUDE, sign - 0.5)
        pixels = operations[int(choice * len(operations))](pixels, strength)
    return pixels


class Augment:
    """Random image transform; with all augmentations off it equals `ImageTransform.square`.

    The result is a pure function of the pixels and the generator. Each step uses its own random
    numbers, so that enabling one step does not change the numbers of the others.
    """

    def __init__(self, config: AugmentConfig, image_config: ImageConfig) -> None:
        self.config = config
        self.transform = ImageTransform(image_config)
        self._extra = [AUGMENTATIONS.get(name) for name in config.extra]
        self._mean_color = (torch.tensor(image_config.mean) * 255).round().byte().view(3, 1, 1)

    def __call__(
        self, pixels: UInt8[Tensor, "3 H W"], generator: torch.Generator
    ) -> UInt8[Tensor, "3 S S"]:
        """Augment an image and resize it to the model's input; pixels stay 0 to 255."""
        config = self.config
        u = torch.rand(19, generator=generator).tolist()
        square = self._crop(self.transform.trim(pixels), *u[:4])
        if u[4] < config.flip:
            square = square.flip(2)
        if config.rand_augment is not None:
            square = rand_augment(square, *config.rand_augment, generator)
        square = self._in_float(square, u)
        if u[13] < config.erase:
            self._erase_(square, *u[14:18])
        for augmentation in self._extra:
            square = augmentation(square, generator)
        return square

    def _in_float(self, square: UInt8[Tensor, "3 S S"], u: list[float]) -> UInt8[Tensor, "3 S S"]:
        """Apply the steps in floating point, rounded once after the last."""
        config = self.config
        moved = config.rotate_deg or config.zoom or config.translate
        outlined, gray = u[18] < config.outline, u[9] < config.grayscale
        if not (moved or outlined or gray or config.color):
            return square
        values = square.float()
        if moved:
            values = warp(values, self._matrix(*u[5:9]))
        if outlined:
            values = inked(values)
        if config.color or gray:
            factors = [1 + config.color * (2 * it - 1) for it in u[10:13]]
            values = recolor(
                values,
                brightness=factors[0],
                contrast=factors[1],
                saturation=0.0 if gray else factors[2],
            )
        return values.round_().to(torch.uint8)

    def _crop(
        self, pixels: UInt8[Tensor, "3 H W"], area: float, shape: float, top: float, left: float
    ) -> UInt8[Tensor, "3 S S"]:
        """Crop a random box and resize it; the arguments are uniform random numbers in [0, 1)."""
        if self.config.min_scale == 1:
            return self.transform.resize(pixels)
        height, width = pixels.shape[1:]
        resize, side = self.transform.config.resize, self.transform.config.image_size
        # The aspect ratio varies around that of the transform without augmentation.
        middle = min(height, width)
        is_cut = resize in ("crop", "shortest")
        base_height, base_width = (middle, middle) if is_cut else (height, width)
        fraction = self.config.min_scale + area * (1 - self.config.min_scale)
        wider = self.config.ratio ** (2 * shape - 1)
        cut_height = min(height, max(1, round(base_height * math.sqrt(fraction / wider))))
        cut_width = min(width, max(1, round(base_width * math.sqrt(fraction * wider))))
        y, x = int(top * (height - cut_height + 1)), int(left * (width - cut_width + 1))
        part = pixels[:, y : y + cut_height, x : x + cut_width]
        if resize == "pad":
            return self.transform.resize(part)
        return self.transform.resample(part, side, side)

    def _matrix(self, turn: float, size: float, x: float, y: float) -> AffineMatrix:
        """Compute the map from output to input; the arguments are uniform random numbers."""
        config = self.config
        angle = math.radians(config.rotate_deg * (2 * turn - 1))
        scale = 1 / (1 + config.zoom * (2 * size - 1))
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        # Coordinates span -1 to 1, so a side has length 2.
        shift_x, shift_y = (2 * config.translate * (2 * it - 1) for it in (x, y))
        return (
            (cos, -sin, -cos * shift_x + sin * shift_y),
            (sin, cos, -sin * shift_x - cos * shift_y),
        )

    def _erase_(
        self, square: UInt8[Tensor, "3 S S"], area: float, shape: float, top: float, left: float
    ) -> None:
        """Fill a random box with the mean colour, which normalizes to nearly 0; in place."""
        side = square.shape[1]
        fraction, wider = 0.02 + area * (0.33 - 0.02), 3.3 ** (2 * shape - 1)
        height = min(side, max(1, round(side * math.sqrt(fraction / wider))))
        width = min(side, max(1, round(side * math.sqrt(fraction * wider))))
        y, x = int(top * (side - height + 1)), int(left * (side - width + 1))
        square[:, y : y + height, x : x + width] = self._mean_color
