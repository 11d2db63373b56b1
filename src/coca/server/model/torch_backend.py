"""Model of the service by torch.

Dimensions: S side of the model's input (pixels).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from coca.inference.attention import WordMaps, explain_caption
from coca.inference.predictor import Predictor
from coca.processing.image import ImageConfig
from coca.runtime.inputs import Caption, Prediction
from coca.runtime.preprocess import ImageSettings
from coca.server.images.data_uris import ImageSteps


def steps_of(config: ImageConfig) -> ImageSteps:
    """Describe the preprocessing of a model for a process without torch."""
    settings = ImageSettings(
        image_size=config.image_size,
        resize=config.resize,
        trim=config.trim,
        mean=config.mean,
        std=config.std,
        interpolation=config.interpolation,
        reduced=config.reduced,
    )
    return ImageSteps(settings, as_torch=True)


class TorchBackend:
    """A loaded model of torch."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.images = steps_of(predictor.processor.image.config)
        self.context_length = predictor.processor.context_length
        reserved = predictor.processor.tokenizer.reserved
        self.max_text_tokens = self.context_length - reserved
        self.dtype = str(predictor.model.log_scale.dtype).removeprefix("torch.")
        head = predictor.model.head
        self.answers_questions = head is not None and head.config.reads == "text"

    def prepared(self, pixels: UInt8[np.ndarray, "S S 3"]) -> UInt8[torch.Tensor, "3 S S"]:
        """Convert the model's input to a tensor with channels first."""
        return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)

    def leading_ids(self, text: str, count: int) -> list[int]:
        """Encode the first `count` tokens of a text of any length, without special tokens."""
        return self._predictor.processor.tokenizer.leading_ids(text, count)

    def answer(self, images: Sequence[Any], questions: Sequence[str]) -> list[list[Prediction]]:
        """Rank the answers of the model's head."""
        return self._predictor.answer(images, questions)

    def explain(self, image: UInt8[np.ndarray, "S S 3"], caption: Caption, prompt: str) -> WordMaps:
        """Compute the cross-attention maps of a caption."""
        return explain_caption(self._predictor, image, caption=caption, prompt=prompt)
