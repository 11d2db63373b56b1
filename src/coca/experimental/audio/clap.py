"""CLAP of transformers: audio and texts in one space (Wu et al. 2023, arXiv 2211.06687).

Audio takes the place of images: `embed_images(["dog.wav"])`. The library's own feature extractor
computes the input from mono audio.

Dimensions: B batch, E shared embedding.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.core.extras import require
from coca.core.files.atomic import read_model_json
from coca.experimental.audio.spectrogram import read_audio
from coca.model.pretrained import CONFIG_FILE
from coca.predict.image_text_predictor import Placement, as_array, library_errors
from coca.predict.model_kinds import ModelKind
from coca.predict.transformers_model import OwnTokenizer, read_weights
from coca.processing.image_file import ImageInput, image_name
from coca.processing.preprocess import unresized


class ClapPredictor(OwnTokenizer):
    """A CLAP model with its own tokenizer and feature extractor."""

    reads_pixels = False

    def __init__(self, folder: Path, placed: Placement) -> None:
        """Load a folder of transformers; `coca.load` does so from a name."""
        model, self.tokenizer = read_weights(folder)
        text = model.config.text_config
        # RoBERTa numbers its positions from the one after the padding token.
        self._positions = int(text.max_position_embeddings) - text.pad_token_id - 1
        self._extractor = _extractor(folder)
        size = int(model.config.projection_dim)
        super().__init__(model, folder, placed, settings=unresized(), embed_dim=size)

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale_a.detach().exp())

    def prepare_image(self, image: ImageInput) -> Float32[np.ndarray, "C _ _"]:
        """Compute the input of the first window of one clip; thread-safe."""
        name = image_name(image)
        if not isinstance(image, bytes | str | Path):
            raise DataError(f"{name} is not audio, which this model reads", reason="unsupported")
        own = self._extractor
        length_s = float(own.max_length_s)
        samples = read_audio(image, name, rate=own.sampling_rate, length_s=length_s)
        inputs = own(samples, sampling_rate=own.sampling_rate, return_tensors="np")
        return np.asarray(inputs["input_features"][0], np.float32)

    def embed_prepared(
        self, images: Sequence[Float32[np.ndarray, "C _ _"]]
    ) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per output of `prepare_image`, all in one batch."""
        return self._short(self._encode_images(self._joined(images)))

    def _joined(self, images: Sequence[np.ndarray]) -> Float32[np.ndarray, "B C _ _"]:
        return np.stack(images)

    @torch.inference_mode()
    def _image_features(self, pixels: Float32[np.ndarray, "B C _ _"]) -> Float32[np.ndarray, "B E"]:
        features = torch.from_numpy(pixels).to(self._device, self._dtype)
        # What the extractor says of a single clip: those with fusion read each as a long one.
        is_longer = torch.full(
            (len(pixels), 1), self._extractor.truncation == "fusion", device=self._device
        )
        output = self.model.get_audio_features(features, is_longer=is_longer)
        return as_array(output.pooler_output)

    @torch.inference_mode()
    def _text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "B E"]:
        inputs = self.tokenizer(
            list(texts),
            padding="longest",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        output = self.model.get_text_features(
            inputs.input_ids.to(self._device), inputs.attention_mask.to(self._device)
        )
        return as_array(output.pooler_output)


def is_clap(folder: Path) -> bool:
    """Check whether a folder contains a CLAP model of transformers."""
    config = folder / CONFIG_FILE
    content = read_model_json(config) if config.is_file() else None
    return isinstance(content, dict) and content.get("model_type") == "clap"


def choose_files(names: Sequence[str]) -> list[str]:
    """Choose the files of a repository: settings, tokenizer, and weights of one format."""
    weights = "safetensors" if any(it.endswith(".safetensors") for it in names) else "bin"
    return [name for name in names if re.fullmatch(rf"[^/]+\.(json|txt|{weights})", name)]


KIND = ModelKind(is_clap, ClapPredictor, choose_files)
"""Models of CLAP, `clap:ORGANISATION/NAME[@REVISION]` or `clap:FOLDER`."""


def _extractor(folder: Path) -> Any:
    library = require("transformers", extra="transformers")
    with library_errors(folder):
        return library.ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
