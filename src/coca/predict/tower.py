"""A captioner on a frozen image-text model: its image encoder by kind, and its predictor.

The tower is a model of OpenCLIP or transformers. It is loaded by its name and is not part of the
captioner's weights, so a checkpoint has the trained layers only, and the tower's fingerprint.

Dimensions: B batch, N images or texts, S side of the image (pixels), L patches, F features of the
tower, D width of a token, E embedding.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from pydantic import PositiveInt
from torch import Tensor, nn

from coca.core.errors import ConfigError, ModelError, UnsupportedError
from coca.core.files.atomic import files_fingerprint
from coca.model.coca import CoCa
from coca.model.encoders.encoder import (
    IMAGE_ENCODERS,
    ImageEncoder,
    ImageEncoderConfig,
    Normalization,
    require,
)
from coca.model.layers.transformer import Linear
from coca.predict.image_text_predictor import ImageTextPredictor, Placement, as_array
from coca.predict.inputs import SeenImages
from coca.predict.model_kinds import library_of, model_files
from coca.predict.open_weights import model_folder
from coca.predict.openclip_model import OpenCLIPPredictor
from coca.predict.short_vectors import normalized
from coca.predict.torch_predictor import TorchPredictor
from coca.predict.transformers_model import TransformersPredictor
from coca.processing.image import ImageConfig
from coca.processing.image_file import ImageInput


class TowerConfig(ImageEncoderConfig):
    """A frozen image-text model of OpenCLIP or transformers, by its name."""

    kind: Literal["openclip", "hf"]
    name: str
    """A folder, or a name without its prefix: `ViT-B-16-SigLIP2/webli` of kind `openclip`,
    `google/siglip2-base-patch16-224` of kind `hf`."""
    image_size: PositiveInt = 224
    patch_size: PositiveInt = 16
    embeddings: Literal["coca", "tower"] = "coca"
    """`coca` trains a pooler and a text encoder for the embeddings. `tower` keeps the embeddings of
    images and texts, so existing collections stay valid, and trains captions only."""
    fingerprint: str = ""
    """Fingerprint of the tower's files, which a run records; another tower is refused. Empty: any.
    """

    @property
    def is_pretrained(self) -> bool:
        """True: the tower has its own weights."""
        return True

    @property
    def keeps_embeddings(self) -> bool:
        """Whether image and text embeddings are the tower's."""
        return self.embeddings == "tower"

    def resolved(self) -> "TowerConfig":
        """Return these settings with the fingerprint of the tower, and a folder's whole path."""
        folder = self.folder()
        found = files_fingerprint(folder, model_files(folder))
        if self.fingerprint not in ("", found):
            raise ModelError(
                f"{self.name} has the fingerprint {found}, but the captioner was trained on "
                f"{self.fingerprint}; set model.image.name to that edition of the tower, in "
                "config.json or the recipe"
            )
        name = str(folder.absolute()) if self._path.is_dir() else self.name
        return self.replace(name=name, fingerprint=found)

    def folder(self) -> Path:
        """Return the tower's folder; it is downloaded if needed."""
        if self._path.is_dir():
            return self._path
        if self._path.is_absolute():
            raise ModelError(
                f"there is no tower in {self.name}; set model.image.name to its folder, in "
                "config.json or the recipe"
            )
        return model_folder(f"{self.kind}:{self.name}")

    @property
    def _path(self) -> Path:
        return Path(self.name).expanduser()

    def load(self) -> ImageTextPredictor:
        """Load the tower on the CPU, in fp32, unless `reusing_tower` has it."""
        found, kept = self.resolved().fingerprint, _KEPT.get()
        return load_tower(self.folder()) if kept is None or kept.fingerprint != found else kept

    def normalization(self) -> Normalization:
        """Return the normalization of the tower's images; its weights are not read."""
        settings = _tower_class(self.folder()).settings_of(self.folder())
        return Normalization(settings.mean, settings.std, settings.interpolation)


_KEPT: ContextVar[ImageTextPredictor | None] = ContextVar("kept tower", default=None)


@contextmanager
def reusing_tower(model: CoCa | None) -> Iterator[None]:
    """Build captioners in the block on the tower that another one has, instead of its files.

    Both then move to devices and precisions together.
    """
    encoder = None if model is None else model.image_encoder
    token = _KEPT.set(encoder.tower if isinstance(encoder, TowerEncoder) else None)
    try:
        yield
    finally:
        _KEPT.reset(token)


def load_tower(folder: Path, *, prepack: bool = False) -> ImageTextPredictor:
    """Load an image-text model with images of one size from its folder, on the CPU in fp32."""
    kind, found = _tower_class(folder), files_fingerprint(folder, model_files(folder))
    # Its modules stay as they are: they move to other devices with those that learn.
    return kind(folder, Placement(torch.device("cpu"), "fp32", 64, found, prepack))


def _tower_class(folder: Path) -> type[OpenCLIPPredictor] | type[TransformersPredictor]:
    """Return the class of a tower, from its files without weights."""
    kinds: dict[str, type[OpenCLIPPredictor] | type[TransformersPredictor]] = {
        "openclip": OpenCLIPPredictor,
        "transformers": TransformersPredictor,
    }
    kind = kinds.get(library_of(folder) or "")
    if kind is None or kind.settings_of(folder).resize == "within":
        raise ConfigError(
            f"{folder} is not an image-text model of OpenCLIP or transformers with images of one "
            "size, such as SigLIP 2 without NaFlex"
        )
    return kind


@IMAGE_ENCODERS.register("openclip")
@IMAGE_ENCODERS.register("hf")
class TowerEncoder(ImageEncoder):
    """Patch tokens of a frozen image-text model, without its class token.

    They come from its last layer, after its final norm. If their width is not `width`, a trained
    linear layer with a layer norm maps them.
    """

    config_class = TowerConfig
    config: TowerConfig
    tower: ImageTextPredictor
    """The tower; not a submodule, so its weights are not in `state_dict`."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        size, patch = config.image_size, config.patch_size
        # Not on the meta device: the weights of the tower are in no other file.
        with torch.device("cpu"):
            self.tower = config.load()
            own = self.tower.image_settings.image_size
            require(
                size == own,
                f"image.image_size is {size}, but {config.name} reads images of {own} px; set it "
                f"to {own}",
            )
            blank = torch.zeros(1, 3, size, size, device=self.tower._device)
            _, tokens, width = self.features(blank).shape
        side = math.isqrt(tokens)
        require(
            side == size // patch,
            f"image.patch_size is {patch}, but {config.name} makes {side} x {side} tokens of an "
            f"image of {size} px; set it to {size // side}",
        )
        self.embed_dim = self.tower.embed_dim if config.keeps_embeddings else None
        self.projection = (
            None
            if width == config.width
            else nn.Sequential(Linear(width, config.width), nn.LayerNorm(config.width))
        )

    @torch.no_grad()
    def features(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B L F"]:
        """Compute the tower's patch tokens."""
        dtype = next(self.tower.vision.parameters()).dtype
        return self.tower.image_tokens(images.to(dtype)).to(images.dtype)

    def project(self, features: Float[Tensor, "B L F"]) -> Float[Tensor, "B L D"]:
        """Map features to the width of the tokens."""
        return features if self.projection is None else self.projection(features)

    def feature_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield nothing: the tower is frozen."""
        return iter(())

    def feature_state(self) -> dict[str, Tensor]:
        """Return the tensors of the tower's image encoder."""
        return dict(self.tower.vision.state_dict())

    def check_images(self, images: ImageConfig) -> None:
        """Check that training resizes images as the tower does, if its embeddings are kept."""
        own = "squash" if self.tower.image_settings.resize == "squash" else "crop"
        if self.config.keeps_embeddings and (images.resize != own or images.trim):
            raise ConfigError(
                f"data.resize is {images.resize} and data.trim {str(images.trim).lower()}, but "
                f"{self.config.name} resizes images by {own}; set them to {own} and false"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TowerEncoder":
        """Move the tower with the other layers."""
        self.tower.model._apply(fn, recurse)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class TowerPredictor(TorchPredictor):
    """The embeddings of a frozen image-text model, and the captions of a decoder on it.

    It has the fingerprint of the tower, since the vectors are equal.
    """

    def __init__(self, *args: Any, fingerprint: str, **options: Any) -> None:
        """Create a predictor; for arguments see `TorchPredictor`."""
        super().__init__(*args, fingerprint=fingerprint, **options)
        encoder = self.model.image_encoder
        assert isinstance(encoder, TowerEncoder), "chosen by the configuration"
        self.tower = encoder.tower
        self.tower.batch_size = self.batch_size
        self.fingerprint, self._captioner = self.tower.fingerprint, fingerprint
        self.image_settings = self.tower.image_settings

    @property
    def model_fingerprint(self) -> str:
        return self._captioner

    @property
    def logit_scale(self) -> float:
        return self.tower.logit_scale

    @property
    def context_length(self) -> int:
        return self.tower.context_length

    @property
    def max_text_tokens(self) -> int:
        return self.tower.max_text_tokens

    def leading_ids(self, text: str, count: int) -> list[int]:
        return self.tower.leading_ids(text, count)

    def prepare_image(self, image: ImageInput) -> UInt8[ndarray, "3 S S"]:
        return self.tower.prepare_image(image)

    def embed_texts(self, texts: str | Iterable[str]) -> Float32[ndarray, "N E"]:
        return self._short(self.tower.embed_texts(texts))

    def embed_clips(self, *args: Any, **options: Any) -> NoReturn:
        raise UnsupportedError(
            f"{self.source} keeps the embeddings of {self.tower.source}, which embeds single "
            "images; embed the frames, such as with coca.predict.video.embed_clips"
        )

    def _read_ahead(
        self, images: Sequence[ImageInput], title: str
    ) -> Iterator[Float[Tensor, "B 3 S S"]]:
        """Yield batches of pixels, resized and normalized as by the tower's library."""
        for pixels in self.tower._read_ahead(images, title):
            yield self.tower.normalize(pixels)

    def _from_squares(self, squares: UInt8[ndarray, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        return self.tower.normalize(squares)

    @torch.inference_mode()
    def _encode_images(self, pixels: Float[Tensor, "B 3 S S"]) -> Float32[ndarray, "B E"]:
        return normalized(as_array(self.tower.image_features(pixels)))

    def _encode_images_and_tokens(
        self, pixels: Float[Tensor, "B 3 S S"]
    ) -> tuple[Float32[ndarray, "B E"], SeenImages]:
        # Two passes: the library returns embeddings without the tokens that they are pooled from.
        return self._encode_images(pixels), self._image_tokens(pixels)
