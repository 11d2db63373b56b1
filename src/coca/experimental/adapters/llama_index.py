"""Embedding of LlamaIndex for texts and images in one space: `MultiModalEmbedding`."""

from asyncio import to_thread
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

from coca.core.extras import extra_imports
from coca.experimental.adapters.models import ModelName, as_predictor
from coca.runtime.base_predictor import BasePredictor
from coca.search.query.query_terms import embed_queries

with extra_imports("llama_index", extra="llama-index"):
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.embeddings import MultiModalEmbedding

ImageFile: TypeAlias = str | Path | BytesIO
"""A path, or the encoded image in memory."""


class CoCaEmbedding(MultiModalEmbedding):
    """Embedding of texts and images as vectors of length 1.

    Example:
        Settings.embed_model = CoCaEmbedding("everyday")
    """

    _predictor: BasePredictor = PrivateAttr()

    def __init__(self, model: ModelName, *, device: str | None = None, **options: Any) -> None:
        """Load the model.

        Args:
            model: A loaded model, or a name that `coca.load` accepts.
            device: Torch device of a model that is loaded.
            **options: Fields of `BaseEmbedding`, such as `embed_batch_size`.
        """
        predictor = as_predictor(model, device=device)
        super().__init__(**{"model_name": predictor.source, **options})
        self._predictor = predictor

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in serialized settings."""
        return "CoCaEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._predictor.embed_texts(texts).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return embed_queries(self._predictor.embed_texts, [query])[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        # In a thread: the model would block the event loop.
        return await to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await to_thread(self._get_text_embeddings, texts)

    def _get_image_embeddings(self, img_file_paths: Sequence[ImageFile]) -> list[list[float]]:
        images = [it.getvalue() if isinstance(it, BytesIO) else it for it in img_file_paths]
        return self._predictor.embed_images(images).tolist()

    def _get_image_embedding(self, img_file_path: ImageFile) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    async def _aget_image_embedding(self, img_file_path: ImageFile) -> list[float]:
        return await to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(
        self, img_file_paths: Sequence[ImageFile]
    ) -> list[list[float]]:
        return await to_thread(self._get_image_embeddings, img_file_paths)
