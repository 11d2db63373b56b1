"""Encoder of MTEB: evaluates a model on its tasks of images, of texts, and of both."""

from typing import Any

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ConfigError
from coca.core.extras import extra_imports
from coca.experimental.adapters.models import ModelName, as_predictor
from coca.runtime.base_predictor import BasePredictor
from coca.runtime.short_vectors import normalized

with extra_imports("mteb", extra="mteb"):
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ScoringFunction


def _parameters(model: BasePredictor) -> int | None:
    """Count the parameters of a model; None: its graphs of ONNX have no count."""
    module = getattr(model, "model", None)
    return module and sum(weight.numel() for weight in module.parameters())


class CoCaEncoder(AbsEncoder):
    """Encoder for `mteb.evaluate`, of the modalities image and text.

    Example:
        mteb.evaluate(CoCaEncoder("everyday"), mteb.get_tasks(tasks=["CIFAR10ZeroShot"]))
    """

    def __init__(
        self,
        model_name: ModelName = "everyday",
        revision: str | None = None,
        *,
        device: str | None = None,
        **options: Any,
    ) -> None:
        """Load the model; the signature is that of `mteb.EncoderProtocol`.

        Args:
            model_name: A loaded model, or a name that `coca.load` accepts.
            revision: Revision in the results; default: the fingerprint of the model.
            device: Torch device; default: the first accelerator, else the CPU.
            options: Further options of MTEB, which are not used.
        """
        self.model = as_predictor(model_name, device=device)
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                # MTEB requires the form ORGANIZATION/NAME.
                "name": f"coca/{self.model.source.rstrip('/').rpartition('/')[2] or 'model'}",
                "revision": revision or self.model.fingerprint,
                "modalities": ["image", "text"],
                "embed_dim": self.model.embed_dim,
                "n_parameters": _parameters(self.model),
                "framework": ["PyTorch"],
                "languages": ["eng-Latn"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": False,
            }
        )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **options: Any,
    ) -> Float32[np.ndarray, "N E"]:
        """Embed a loader's inputs as vectors of length 1.

        Args:
            inputs: Batches with `image`, `text`, or both; then the direction of their sum.
            task_metadata: Task, which is not used, as are all further arguments: CoCa has no
                instructions.
            hf_split: Split of the task.
            hf_subset: Subset of the task.
            prompt_type: Whether the inputs are queries or documents.
            options: Further options of MTEB.

        Raises:
            ConfigError: A batch has neither images nor texts.
            DataError: An image cannot be read.
        """
        rows = [self._embedded(batch) for batch in inputs]
        return np.concatenate(rows) if rows else np.zeros((0, self.model.embed_dim), np.float32)

    def _embedded(self, batch: Any) -> Float32[np.ndarray, "N E"]:
        parts = []
        if "image" in batch:
            parts.append(self.model.embed_images(list(batch["image"])))
        if "text" in batch:
            parts.append(self.model.embed_texts(list(batch["text"])))
        if not parts:
            raise ConfigError(f"a batch must have images or texts, got {', '.join(sorted(batch))}")
        return parts[0] if len(parts) == 1 else normalized(parts[0] + parts[1])
