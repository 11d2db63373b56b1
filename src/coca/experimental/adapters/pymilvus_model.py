"""Embedding and rerank functions with the interfaces of `pymilvus.model`.

`pymilvus.model` names them by duck typing, so this module does not need it.

Dimensions: N documents, E embedding.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ConfigError
from coca.experimental.adapters.models import ModelName, as_predictor
from coca.runtime.inputs import ImageInput, as_images, as_texts
from coca.search.query.query_terms import embed_queries, name_emoji


class CoCaEmbeddingFunction:
    """Embedding function as `pymilvus.model.base.BaseEmbeddingFunction`: queries are texts.

    Example:
        embed = CoCaEmbeddingFunction("everyday")
        client.insert("photos", [{"vector": v} for v in embed.encode_documents(paths)])
        client.search("photos", data=embed.encode_queries(["a red car"]))
    """

    def __init__(
        self, model: ModelName, *, documents: str = "image", device: str | None = None
    ) -> None:
        """Load the model.

        Args:
            model: A loaded model, or a name that `coca.load` accepts.
            documents: Kind of the documents: `image` (paths, bytes, PIL images, arrays), or `text`.
            device: Torch device of a model that is loaded.

        Raises:
            ConfigError: `documents` is neither of the two.
            ModelError: There is no such model.
        """
        if documents not in ("image", "text"):
            raise ConfigError(f"documents must be image or text, got {documents!r}")
        self.model = as_predictor(model, device=device)
        self.documents = documents

    @property
    def dim(self) -> int:
        """Size of a vector."""
        return self.model.embed_dim

    def __call__(self, texts: Sequence[str]) -> list[Float32[np.ndarray, " E"]]:
        """Embed texts as vectors of length 1."""
        return list(self.model.embed_texts(texts))

    def encode_queries(self, queries: str | Sequence[str]) -> list[Float32[np.ndarray, " E"]]:
        """Embed query texts as vectors of length 1, as `coca search` does."""
        texts = as_texts(queries)
        return list(embed_queries(self.model.embed_texts, texts)) if texts else []

    def encode_documents(
        self, documents: ImageInput | Sequence[ImageInput] | Sequence[str]
    ) -> list[Float32[np.ndarray, " E"]]:
        """Embed images, or texts if the documents are texts, as vectors of length 1.

        Raises:
            DataError: An image cannot be read, or a text is not a str; the message names it.
        """
        if self.documents == "text":
            return list(self.model.embed_texts(cast(Sequence[str], documents)))
        return list(self.model.embed_images(documents))


@dataclass(frozen=True)
class RerankResult:
    """Result of a reranking, with the fields of `pymilvus.model.base.RerankResult`."""

    text: Any
    """The document: here an image, as it was given."""
    score: float
    """Logit scale times cosine plus log-likelihood of the query as a caption, in nats."""
    index: int
    """Position among the given documents."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)


class CoCaRerankFunction:
    """Rerank function as `pymilvus.model.base.BaseRerankFunction`: images by caption likelihood.

    The score is that of `coca search --rerank`: logit scale times cosine plus
    log p(query | image). As there, a short query is compared without its article.
    """

    def __init__(self, model: ModelName, *, device: str | None = None) -> None:
        """Load the model.

        Args:
            model: A loaded model, or a name that `coca.load` accepts.
            device: Torch device of a model that is loaded.
        """
        self.model = as_predictor(model, device=device)

    def __call__(
        self, query: str, documents: ImageInput | Sequence[ImageInput], top_k: int = 5
    ) -> list[RerankResult]:
        """Rank images for a query, best first.

        Args:
            query: Query text.
            documents: One or many images: paths, bytes, PIL images or arrays.
            top_k: Maximum number of results, at least 1.
        """
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, got {top_k}")
        documents = as_images(documents)
        vector = embed_queries(self.model.embed_texts, [query])[0]
        cosines = self.model.embed_images(documents) @ vector
        likelihoods = self.model.score(documents, name_emoji(query))[:, 0]
        scores = self.model.logit_scale * cosines + likelihoods
        best = np.argsort(-scores, kind="stable")[:top_k]
        return [RerankResult(documents[row], float(scores[row]), int(row)) for row in best]
