"""Object detection with a trained detector: labelled boxes from images.

    detector = load_detector("runs/emoji-detection")
    for found in detector.detect("street.png")[0]: print(found.label, found.box)

Dimensions: N images, S side of the model's square input, pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from coca.core.errors import ConfigError
from coca.core.progress import progress_bar
from coca.experimental.detection import detector as saved
from coca.experimental.detection.detector import Detector
from coca.predict.inputs import as_images
from coca.predict.open_weights import model_folder
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.image import decode
from coca.processing.image_file import ImageInput

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf")


@dataclass(frozen=True)
class Detection:
    """A detected object in an image."""

    label: str
    score: float
    """Confidence, 0 to 1."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom edge, in pixels of the image."""


class ObjectDetector:
    """A detector with its processor, for inference."""

    def __init__(self, predictor: TorchPredictor, detector: Detector) -> None:
        self.predictor = predictor
        self.detector = detector.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the detected classes."""
        return self.detector.config.classes

    @torch.inference_mode()
    def detect(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        threshold: float = 0.3,
    ) -> list[list[Detection]]:
        """Detect the objects of each image, highest score first.

        Raises:
            DataError: An image cannot be read.
            ConfigError: The threshold is out of range.
        """
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be in [0, 1], got {threshold}")
        image_list = as_images(images)
        results = []
        with progress_bar("finding objects", len(image_list)) as bar:
            for start in range(0, len(image_list), self.predictor.batch_size):
                batch = image_list[start : start + self.predictor.batch_size]
                results += self._detect([decode(image) for image in batch], threshold)
                bar.advance(len(batch))
        return results

    def _detect(
        self, pixels: Sequence[UInt8[Tensor, "3 _h _w"]], threshold: float
    ) -> list[list[Detection]]:
        transform, scale = self.predictor.processor.image, self.predictor.model.log_scale
        ready = torch.stack([transform(one) for one in pixels]).to(scale.device, scale.dtype)
        side = ready.shape[-1]
        results = []
        for one, found in zip(pixels, self.detector(list(ready)), strict=True):
            height, width = one.shape[1:]
            sides = torch.tensor([width, height, width, height]) / side
            rows = zip(
                (found["boxes"].cpu() * sides).tolist(),
                found["scores"].tolist(),
                found["labels"].tolist(),
                strict=True,
            )
            results.append(
                [
                    Detection(self.classes[label], score, (box[0], box[1], box[2], box[3]))
                    for box, score, label in rows
                    if score >= threshold
                ]
            )
        return results


def load_detector(name: str | Path, *, device: str | None = None) -> ObjectDetector:
    """Load a detector trained by `coca finetune`."""
    predictor = load_coca(name, device=device)
    return ObjectDetector(predictor, saved.load_detector(model_folder(name), predictor.model))


def drawn(image: ImageInput, found: Sequence[Detection], *, shortest_px: int = 384) -> Image.Image:
    """Draw boxes, labels and scores on an image, enlarged to a side of at least `shortest_px`."""
    canvas = Image.fromarray(decode(image).permute(1, 2, 0).contiguous().numpy())
    scale = max(1.0, shortest_px / min(canvas.size))
    canvas = canvas.resize((round(canvas.width * scale), round(canvas.height * scale)))
    draw = ImageDraw.Draw(canvas)
    names = sorted({one.label for one in found})
    for one in reversed(found):
        colour = COLOURS[names.index(one.label) % len(COLOURS)]
        left, top, right, bottom = (round(edge * scale) for edge in one.box)
        draw.rectangle((left, top, right, bottom), outline=colour, width=3)
        text = f"{one.label} {one.score:.0%}"
        label = draw.textbbox((left + 3, max(0, top - 14)), text)
        draw.rectangle((label[0] - 3, label[1] - 1, label[2] + 3, label[3] + 1), fill=colour)
        draw.text((left + 3, max(0, top - 14)), text, fill="white")
    return canvas
