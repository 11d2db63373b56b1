"""Image-text models of sentence-transformers: modules that embed texts and images.

CLIP, SigLIP and multimodal language models are `Transformer` modules of its version 5.4 and later;
older folders have `CLIPModel` modules. The library resizes images itself, so they are passed on as
decoded, up to `MAX_SIDE` pixels.

Dimensions: B batch, E shared embedding.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from coca.core.errors import ModelError
from coca.core.extras import require
from coca.core.files.atomic import read_model_json
from coca.model.pretrained import MODULES_FILE
from coca.predict.image_text_predictor import (
    ImageTextPredictor,
    Placement,
    as_pillow,
    library_errors,
)
from coca.predict.model_kinds import ModelKind
from coca.processing.preprocess import unresized

SCALE = 20.0
"""Factor from cosine to logit of a model without a temperature: that of the library's own loss,
`MultipleNegativesRankingLoss`."""


class SentenceTransformersPredictor(ImageTextPredictor):
    """A model of sentence-transformers; texts are encoded as queries, images as documents."""

    library = "sentence-transformers"

    def __init__(self, folder: Path, placed: Placement) -> None:
        """Load a folder with `modules.json`; `coca.load` does so from a name."""
        library = require("sentence_transformers", extra="sentence-transformers")
        with library_errors(folder):
            model = library.SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, trust_remote_code=False
            )
        if missing := {"text", "image"} - {*model.modalities}:
            raise ModelError(
                f"{folder} embeds {', '.join(map(str, model.modalities))}, and no {min(missing)}"
            )
        self._scale = next(
            (
                float(it.detach().exp())
                for name, it in model.named_parameters()
                if "logit_s" in name
            ),
            SCALE,
        )
        with library_errors(folder):
            size = model.get_embedding_dimension() or model.encode([{"text": "a"}]).shape[1]
        super().__init__(model, folder, placed, settings=unresized(), embed_dim=int(size))
        # SigLIP attends to its padding. The library's default, the longest text of a batch, would
        # give a text other vectors in other batches, and others than in training.
        configs = (getattr(module, "config", None) for module in model.modules())
        kinds = {getattr(config, "model_type", None) for config in configs}
        padding = {"padding": "max_length", "max_length": self.context_length}
        self._text_options = padding if kinds & {"siglip", "siglip2"} else {}

    @property
    def logit_scale(self) -> float:
        return self._scale

    @property
    def context_length(self) -> int:
        length = self.model.max_seq_length or self.model.tokenizer.model_max_length
        return int(length)

    @property
    def max_text_tokens(self) -> int:
        return self.context_length - int(self.model.tokenizer.num_special_tokens_to_add())

    def leading_ids(self, text: str, count: int) -> list[int]:
        return list(self.model.tokenizer(text, add_special_tokens=False).input_ids)[:count]

    def _image_features(
        self, pixels: Sequence[UInt8[np.ndarray, "3 _ _"]]
    ) -> Float32[np.ndarray, "B E"]:
        # The name of its modality keeps an image from being mistaken for another input.
        return self._encode(self.model.encode_document, [{"image": as_pillow(it)} for it in pixels])

    def _text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "B E"]:
        # A bare string that ends as the name of an image does would be opened, or fetched.
        return self._encode(self.model.encode_query, [{"text": text} for text in texts])

    def _encode(self, encode: Any, inputs: list[dict[str, Any]]) -> Float32[np.ndarray, "B E"]:
        vectors = encode(
            inputs,
            batch_size=len(inputs),
            show_progress_bar=False,
            processing_kwargs={"text": self._text_options},
        )
        return np.asarray(vectors, np.float32)


def is_sentence_transformers(folder: Path) -> bool:
    """Check whether a folder contains a model of sentence-transformers, not one of this package."""
    if not (folder / MODULES_FILE).is_file():
        return False
    modules = read_model_json(folder / MODULES_FILE)
    kinds = [str(it.get("type")) for it in modules] if isinstance(modules, list) else []
    return not any(kind.startswith("coca.") for kind in kinds)


def choose_files(names: Sequence[str]) -> list[str]:
    """Choose the files of a repository: its folders have the same weights for other runtimes."""
    weights = "safetensors" if any(it.endswith(".safetensors") for it in names) else "bin|pt"
    wanted = rf"(?!onnx/|openvino/).*\.(json|model|txt|{weights})"
    return [name for name in names if re.fullmatch(wanted, name)]


KIND = ModelKind(is_sentence_transformers, SentenceTransformersPredictor, choose_files)
"""Models of sentence-transformers, `st:ORGANISATION/NAME[@REVISION]` or `st:FOLDER`."""
