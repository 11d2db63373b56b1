"""Model of FiftyOne: embeddings of images and prompts, and zero-shot labels of its samples."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ConfigError
from coca.core.extras import extra_imports
from coca.experimental.adapters.models import ModelName, as_predictor
from coca.runtime.inputs import predictions
from coca.search.query.query_terms import embed_queries

with extra_imports("fiftyone", extra="fiftyone"):
    from fiftyone.core.labels import Classification
    from fiftyone.core.models import EmbeddingsMixin, Model, PromptMixin


class CoCaZooModel(EmbeddingsMixin, PromptMixin, Model):
    """Image model for `compute_embeddings`, `apply_model` and `fiftyone.brain` of FiftyOne.

    Example:
        dataset.compute_embeddings(CoCaZooModel(), embeddings_field="coca")
        dataset.apply_model(CoCaZooModel(classes=["cat", "dog"]), label_field="guess")
    """

    def __init__(
        self,
        model: ModelName = "everyday",
        *,
        classes: Sequence[str] = (),
        device: str | None = None,
    ) -> None:
        """Load the model.

        Args:
            model: A loaded model, or a name that `coca.load` accepts.
            classes: Labels for `apply_model`; embeddings need none.
            device: Torch device; default: the first accelerator, else the CPU.
        """
        self.model = as_predictor(model, device=device)
        self.classes = tuple(classes)
        self._embeddings: Float32[np.ndarray, "N E"] | None = None

    @property
    def media_type(self) -> str:
        """Media type of the samples."""
        return "image"

    @property
    def has_embeddings(self) -> bool:
        """Whether images have embeddings: always."""
        return True

    @property
    def can_embed_prompts(self) -> bool:
        """Whether texts have embeddings: always, in the space of the images."""
        return True

    @property
    def ragged_batches(self) -> bool:
        """Whether batches must have images of one size: never, since the model resizes them."""
        return False

    @property
    def transforms(self) -> None:
        """Transforms outside of the model: none."""
        return None

    @property
    def preprocess(self) -> bool:
        """Whether the model preprocesses its inputs: always."""
        return True

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        """Accept any value: there are no transforms that could be left out."""

    def predict(self, arg: Any) -> Classification:
        """Label an image with the most probable class.

        Args:
            arg: uint8 array of height x width x 3, PIL image or path.

        Raises:
            ConfigError: The model has no classes.
            DataError: The image cannot be read.
        """
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[Any]) -> list[Classification]:
        """Label images of any sizes; as `predict`."""
        if not self.classes:
            raise ConfigError("to label images, name the classes: CoCaZooModel(classes=[...])")
        vectors = self.embed_all(args)
        by_class = self.model.class_embeddings(self.classes)
        logits = self.model.logit_scale * vectors @ by_class.T
        best = [labels[0] for labels in predictions(logits, self.classes)]
        return [Classification(label=one.label, confidence=one.probability) for one in best]

    def get_embeddings(self) -> Float32[np.ndarray, "N E"]:
        """Return the embeddings of the last images.

        Raises:
            ConfigError: No image was embedded before.
        """
        if self._embeddings is None:
            raise ConfigError("there are no embeddings before the first image")
        return self._embeddings

    def embed(self, arg: Any) -> Float32[np.ndarray, " E"]:
        """Embed an image as a vector of length 1; the image as in `predict`."""
        return self.embed_all([arg])[0]

    def embed_all(self, args: Iterable[Any]) -> Float32[np.ndarray, "N E"]:
        """Embed images of any sizes as vectors of length 1."""
        self._embeddings = self.model.embed_images(list(args))
        return self._embeddings

    def embed_prompt(self, arg: str) -> Float32[np.ndarray, " E"]:
        """Embed a text as a vector of length 1, in the space of the images."""
        return self.embed_prompts([arg])[0]

    def embed_prompts(self, args: Iterable[str]) -> Float32[np.ndarray, "N E"]:
        """Embed prompts as vectors of length 1, as `coca search` embeds queries."""
        prompts = list(args)
        if not prompts:
            return np.zeros((0, self.model.embed_dim), np.float32)
        return embed_queries(self.model.embed_texts, prompts)
