"""Model of the service on either runtime: torch, or ONNX Runtime for an exported model.

Only `torch_backend` imports torch.

Dimensions: S side of the model's input (pixels).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from coca.runtime.inputs import Caption, Prediction
from coca.runtime.predictor import Predictor as ExportedPredictor
from coca.server.errors import ServiceError
from coca.server.images.data_uris import ImageSteps
from coca.workflows.collections.collection_model import CollectionModel

if TYPE_CHECKING:
    from coca.inference.attention import WordMaps


@runtime_checkable
class Backend(Protocol):
    """What differs between the runtimes."""

    images: ImageSteps
    """Preprocessing of the model."""
    context_length: int
    """Maximum number of tokens in a text, special tokens included."""
    max_text_tokens: int
    """Maximum number of tokens in a text, without special tokens."""
    dtype: str
    """Precision of the weights."""
    answers_questions: bool
    """Whether the model has a head that reads a text."""

    def prepared(self, pixels: UInt8[np.ndarray, "S S 3"]) -> Any:
        """Convert the model's input to the form of `embed_prepared`."""
        ...

    def leading_ids(self, text: str, count: int) -> list[int]:
        """Encode the first `count` tokens of a text of any length, without special tokens."""
        ...

    def answer(self, images: Sequence[Any], questions: Sequence[str]) -> list[list[Prediction]]:
        """Rank the answers of the model's head."""
        ...

    def explain(
        self, image: UInt8[np.ndarray, "S S 3"], caption: Caption, prompt: str
    ) -> "WordMaps":
        """Compute the cross-attention maps of a caption."""
        ...


def backend_of(predictor: CollectionModel) -> Backend:
    """Return the backend of a loaded model."""
    if isinstance(predictor, ExportedPredictor):
        return ExportedBackend(predictor)
    from coca.inference.predictor import Predictor
    from coca.server.model.torch_backend import TorchBackend

    assert isinstance(predictor, Predictor), "there are two runtimes"
    return TorchBackend(predictor)


class ExportedBackend:
    """An exported model; it has no heads, and its graphs return no attention weights."""

    answers_questions = False

    def __init__(self, predictor: ExportedPredictor) -> None:
        self._predictor = predictor
        self.images = ImageSteps(predictor.image_settings, as_torch=False)
        self.context_length = predictor.context_length
        self.max_text_tokens = predictor.max_text_tokens
        self.dtype = predictor.manifest.precision.replace("fp32", "float32")

    def prepared(self, pixels: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "3 S S"]:
        """Convert the model's input to channels first."""
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def leading_ids(self, text: str, count: int) -> list[int]:
        """Encode the first `count` tokens of a text of any length, without special tokens."""
        return self._predictor.leading_ids(text, count)

    def answer(self, images: Sequence[Any], questions: Sequence[str]) -> list[list[Prediction]]:
        """Raise an error: there is no head."""
        raise _unsupported("answers of a head")

    def explain(
        self, image: UInt8[np.ndarray, "S S 3"], caption: Caption, prompt: str
    ) -> "WordMaps":
        """Raise an error: the graphs return no attention weights."""
        raise _unsupported("attention maps")


def _unsupported(what: str) -> ServiceError:
    return ServiceError(
        f"an exported model has no {what}: serve the model by `coca serve --runtime torch`",
        status=501,
        code="unsupported",
    )
