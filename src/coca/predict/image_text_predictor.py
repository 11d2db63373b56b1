"""Base class of image-text models of other libraries, by torch.

Dimensions: B batch, S side of the model's input (pixels), L patches, F their features, E shared
embedding, T tokens of a text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from coca.core.errors import CocaError, ModelError
from coca.model.pretrained import DTYPES, Resolved
from coca.predict.acceleration import accelerate
from coca.predict.embedding_predictor import EmbeddingPredictor
from coca.predict.short_vectors import normalized
from coca.processing.preprocess import ImageSettings

TEXT_GROUP = 16
"""Texts of about equal length that are encoded at once."""


@dataclass(frozen=True)
class Placement:
    """Where and how a model computes, and its fingerprint."""

    device: torch.device
    precision: Resolved
    batch_size: int
    """Images or texts per batch."""
    fingerprint: str
    """Identifies the files of the model."""
    prepack: bool
    """Whether modules may be changed for inference."""


class ImageTextPredictor(EmbeddingPredictor):
    """A model of another library, on a torch device."""

    tokenizer: Any
    """The tokenizer of the library."""

    def __init__(
        self,
        model: Any,
        folder: Path,
        placed: Placement,
        *,
        settings: ImageSettings,
        embed_dim: int,
    ) -> None:
        """Place a loaded model on its device."""
        super().__init__(source=str(folder), batch_size=placed.batch_size)
        self.model = model.eval().to(placed.device, DTYPES[placed.precision])
        self._size = embed_dim
        # Decoding a photo takes longer than some models do, and changes a vector less than bf16.
        self.image_settings = replace(settings, reduced=placed.precision != "fp32")
        self.fingerprint = placed.fingerprint
        # Divided as torchvision does, so that equal pixels give equal values to the last bit.
        self._mean, self._std = (
            torch.tensor(values, device=placed.device).view(3, 1, 1)
            for values in (settings.mean, settings.std)
        )

    @property
    def embed_dim(self) -> int:
        return self.dimensions or self._size

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    def accelerate(self) -> None:
        """Change the modules for faster inference on a CPU; see `coca.predict.acceleration`."""
        accelerate(self.model)

    def parameter_counts(self) -> dict[str, int]:
        """Count the parameters of the image encoder, of the rest, and of both."""
        image = total = 0
        for name, weight in self.model.named_parameters():
            total += weight.numel()
            # `visual`, `vision_model`, at any depth.
            image += weight.numel() * any(part.startswith("vis") for part in name.split("."))
        return {"image_encoder": image, "text_encoder": total - image, "total": total}

    # Not of models whose library resizes images itself.

    @property
    def vision(self) -> nn.Module:
        """The image encoder."""
        raise NotImplementedError

    def image_features(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
        """Compute the embeddings of normalized images, of any length."""
        raise NotImplementedError

    def image_tokens(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B L F"]:
        """Compute the patch tokens of normalized images: of the last layer, after its norm."""
        raise NotImplementedError

    def text_features(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Compute the embeddings of the output of `tokenize`, of any length."""
        raise NotImplementedError

    def _text_inputs(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Tokenize texts to the arguments of `_text_output`."""
        raise NotImplementedError

    def _text_output(self, **inputs: Tensor) -> Float[Tensor, "B E"]:
        """Compute the embeddings of texts, of any length."""
        raise NotImplementedError

    @property
    def pads_to_context(self) -> bool:
        """Whether the text encoder reads padding, so that each text has the context length."""
        raise NotImplementedError

    @property
    def tokenize(self) -> Callable[[Sequence[str]], Int[Tensor, "B T"]]:
        """The tokenizer, for other processes as well: texts to padded token ids."""
        raise NotImplementedError

    def normalize(self, pixels: UInt8[np.ndarray, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Move images to the device and normalize them, in the precision of the model."""
        values = torch.from_numpy(pixels).to(self._device).to(torch.float32).div_(255)
        mean, std = self._mean.to(self._device), self._std.to(self._device)
        values = values.sub_(mean).div_(std).to(self._dtype)
        return values.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def _image_features(self, pixels: Any) -> Float32[np.ndarray, "B E"]:
        return as_array(self.image_features(self.normalize(pixels)))

    @torch.inference_mode()
    def _text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "B E"]:
        inputs = self._text_inputs(texts).items()
        return as_array(self._text_output(**{name: it.to(self._device) for name, it in inputs}))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _encode_texts(self, tokens: Sequence[str]) -> Float32[np.ndarray, "B E"]:
        # A group is padded to its longest text.
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        starts = range(0, len(order), TEXT_GROUP)
        groups = [[tokens[row] for row in order[at : at + TEXT_GROUP]] for at in starts]
        features = np.concatenate([self._text_features(group) for group in groups])
        return normalized(features[np.argsort(order)])


def as_array(features: Float[Tensor, "B E"]) -> Float32[np.ndarray, "B E"]:
    """Convert features to NumPy, in fp32."""
    return features.float().cpu().numpy()


def as_pillow(image: UInt8[np.ndarray, "3 H W"]) -> Image.Image:
    """Convert an image to the form that the libraries' own processors read."""
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))


@contextmanager
def library_errors(source: Path) -> Iterator[None]:
    """Convert errors of a library that reads a model to a `ModelError` of one sentence."""
    try:
        yield
    except CocaError:
        raise
    except Exception as error:
        # open_clip, timm, transformers and huggingface_hub have no common class of errors.
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ModelError(f"{source} cannot be loaded: {first}") from error
