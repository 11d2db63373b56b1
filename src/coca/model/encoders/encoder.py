"""Interface of image encoders, their configuration, and the registry of their kinds.

An encoder computes features, finishes them if they are of an inner layer, and projects them to the
tokens that the poolers attend to. Features of a frozen encoder can be cached, since they depend on
the image only.

Dimensions: B batch, N images of a series, P positions of features, F features, L tokens of an
image, S tokens of a series, G final features, D width of a token, K classes of the encoder's own
classifier.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, NamedTuple

from jaxtyping import Float
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError
from coca.core.registry import Registry


def require(statement: bool, message: str) -> None:
    """Raise a `ConfigError` with this message unless the statement is true."""
    if not statement:
        raise ConfigError(message)


def require_heads(name: str, width: int, heads: int) -> None:
    """Check that attention heads divide a width."""
    require(
        width % heads == 0,
        f"{name}: heads {heads} do not divide width {width}; choose a divisor of {width}",
    )


def eval_frozen_(model: nn.Module) -> None:
    """Set frozen layers to evaluation mode: their statistics do not change, and they drop nothing.

    A layer is frozen if none of its parameters is trained. Patch dropout stays: it is a setting of
    an `ImageEncoder`, also of a frozen one.
    """
    for module in model.modules():
        trained = [parameter.requires_grad for parameter in module.parameters()]
        if trained and not any(trained) and not isinstance(module, ImageEncoder):
            module.eval()


class Normalization(NamedTuple):
    """The image normalization and resampling filter that an encoder was pretrained with."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Channel means, where 0 is black and 1 is white."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Channel standard deviations."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Resampling filter."""


class ImageEncoderConfig(Config):
    """Settings that all kinds of image encoders share."""

    kind: str
    """Kind of encoder, with its own settings: `vit` is a Vision Transformer, `efficientnet_lite` a
    small ConvNet, `timm` any model of timm by its name. `openclip` and `hf` are image-text models
    by their names, frozen and without a copy in the checkpoint. A plugin may register others."""
    image_size: PositiveInt
    """Side of the square input in pixels."""
    patch_size: PositiveInt
    """Side of the image area of one token in pixels: the patch of a transformer, or the total
    stride of a ConvNet, mostly 32."""
    width: PositiveInt
    """Features per token."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "ImageEncoderConfig":
        s, p = self.image_size, self.patch_size
        near = sorted({max(s // p, 1) * p, (s // p + 1) * p})
        require(
            # Patches of 14 px of a published model may leave a border of its 384 px.
            self.is_pretrained or s % p == 0,
            f"patch_size {p} does not divide image_size {s}; near sizes that fit: "
            + ", ".join(map(str, near)),
        )
        return self

    @property
    def tokens(self) -> int:
        """Tokens of one image at the native size, without class token."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoder is frozen and has weights of its own, outside of the model's."""
        return False

    @property
    def keeps_embeddings(self) -> bool:
        """Whether embeddings are those of the encoder, so the model trains captions only."""
        return False

    def resolved(self) -> "ImageEncoderConfig":
        """Return these settings with those that follow from the encoder's own files."""
        return self

    def normalization(self) -> Normalization:
        """Return the normalization of the encoder's images."""
        return Normalization()

    @classmethod
    def kinds(cls) -> Mapping[str, type["ImageEncoderConfig"]]:
        """Return the configuration class of each registered kind; the first is the default."""
        names = sorted(IMAGE_ENCODERS.names(), key=lambda name: (name != DEFAULT_KIND, name))
        return {name: IMAGE_ENCODERS.get(name).config_class for name in names}


class EncodedImages(NamedTuple):
    """Images, or series of images, after the image encoder."""

    tokens: Float[Tensor, "B S D"]
    probabilities: Float[Tensor, "B K"] | None = None
    """Class probabilities of the encoder's own classifier; None if the model does not read them."""


class ImageEncoder(nn.Module, ABC):
    """Base class of image encoders: images to features to tokens.

    Register a subclass with a `config_class` in `IMAGE_ENCODERS`; its constructor takes the
    configuration.
    """

    config_class: ClassVar[type[ImageEncoderConfig]]
    config: ImageEncoderConfig
    extra_tokens: int = 0
    """Tokens before the patch tokens, such as a class token."""
    embed_dim: int | None = None
    """Size of the encoder's own embeddings, if the model keeps them."""
    class_names: tuple[str, ...] | None = None
    """Class names of the encoder's own classifier; None without one, or if they are unknown."""

    @property
    def has_classifier(self) -> bool:
        """Whether the encoder has a classifier of its own, which `classify` runs."""
        return False

    @property
    def feature_family(self) -> str:
        """Name shared by kinds that compute equal features from tensors of equal names."""
        return self.config.kind

    @abstractmethod
    def features(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B P F"]:
        """Compute the features of normalized images; a feature cache stores them."""

    def finish(self, features: Float[Tensor, "B P F"]) -> Float[Tensor, "B L G"]:
        """Run the layers after `features`; the identity unless the encoder is split."""
        return features

    def project(self, features: Float[Tensor, "B L G"]) -> Float[Tensor, "B L D"]:
        """Map final features to tokens; the identity unless the widths differ."""
        return features

    def split_after(self, stages: int) -> None:
        """Let `features` return the output of the first stages, and `finish` run the others.

        So the first stages can be frozen and their output cached, while the others are trained.
        """
        raise ConfigError(
            f"an image encoder of kind {self.config.kind} caches its final features only; leave "
            "out stages"
        )

    def final_features(
        self, images: Float[Tensor, "B *N C height width"] | Float[Tensor, "B P F"]
    ) -> Float[Tensor, "BN L G"]:
        """Compute the final features of all images, or from features of a cache."""
        # A cache has half precision.
        features = images.float() if images.ndim == 3 else self.features(images.flatten(0, -4))
        return self.finish(features)

    def forward(
        self, images: Float[Tensor, "B *N C height width"] | Float[Tensor, "B P F"]
    ) -> Float[Tensor, "B S D"]:
        """Encode images to tokens.

        The tokens of a series, such as of the frames of a clip, are concatenated. Features of a
        cache may take the place of the images.
        """
        tokens = self.project(self.final_features(images))
        # `len(images)` would fix the batch size of an exported model.
        return tokens.reshape(images.shape[0], -1, tokens.shape[2])

    def classify(self, features: Float[Tensor, "B L G"]) -> Float[Tensor, "B K"]:
        """Compute the logits of the encoder's own classifier from final features.

        Such as those of ImageNet's 1,000 classes.
        """
        raise ConfigError(f"an image encoder of kind {self.config.kind} has no classifier")

    def feature_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that features depend on, by name."""
        return self.named_parameters()

    def feature_state(self) -> dict[str, Tensor]:
        """Return all tensors that features and logits depend on, buffers included, by name."""
        return dict(self.state_dict())

    def init_weights(self) -> None:
        """Initialize what the linear layers' common initialization leaves out."""

    def state_for(self, image_size: int) -> dict[str, Tensor]:
        """Return the weights for images of another native size, such as resized positions."""
        return dict(self.state_dict())

    def set_patch_dropout(self, fraction: float) -> None:
        """Set the fraction of patches to drop in training."""
        if fraction:
            raise ConfigError(
                f"patch_dropout is {fraction}, but an image encoder of kind {self.config.kind} "
                "reads all patches; set it to 0"
            )

    def layer_numbers(self) -> dict[str, int] | None:
        """Return the layer of each parameter for layer-wise learning rates, 0 at the input.

        Parameters that are not listed, such as a projection, keep the full rate. None: the layers
        are the blocks of the encoder's `nn.ModuleList`.
        """
        return None


DEFAULT_KIND = "vit"
"""Kind of a configuration that specifies none."""

IMAGE_ENCODERS: Registry[type[ImageEncoder]] = Registry("image encoder", "image_encoders")
