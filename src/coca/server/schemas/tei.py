"""Bodies of `/embed`, `/rerank`, `/similarity` and `/info`, as text-embeddings-inference has them.

Unknown fields are ignored. Vectors have length 1 always, and long texts are truncated.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, RootModel, StrictBool, Tag

from coca.server.schemas.openai import MAX_INPUTS, Foreign, RerankRequest
from coca.server.schemas.shared import MAX_TEXT


class Truncation(Foreign):
    """How inputs that are too long are shortened."""

    truncate: StrictBool | None = None
    """Ignored: texts are truncated always, which `/info` reports as `auto_truncate`."""
    truncation_direction: Literal["Right", "right", "Left", "left", ""] | None = None
    """Side at which a text is truncated that is too long; null and empty: right."""

    @property
    def truncates_left(self) -> bool:
        """Whether the end of a long text is kept."""
        return (self.truncation_direction or "").lower() == "left"


class EmbedRequest(Truncation):
    """Texts to embed, or images as data URIs."""

    inputs: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    normalize: StrictBool | None = None
    """Ignored: vectors have length 1."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Keep the first numbers only, and normalize them again."""


class RankRequest(Truncation):
    """A query and the texts to rank, or images as data URIs."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    texts: Annotated[list[str], Field(min_length=1, max_length=1_000)]
    raw_scores: StrictBool | None = None
    """Return the cosine of a text; for an image, the mean log probability of a token, in nats."""
    return_text: StrictBool | None = None


class SimilarityInputs(Foreign):
    """A text and the texts to compare it with, or images as data URIs."""

    source_sentence: Annotated[str, Field(min_length=1)]
    sentences: Annotated[list[str], Field(min_length=1, max_length=1_000)]


class SimilarityRequest(Foreign):
    """Texts or images to compare by the cosine."""

    inputs: SimilarityInputs
    parameters: Truncation | None = None


def _kind(body: Any) -> str:
    return "infinity" if isinstance(body, dict) and "documents" in body else "tei"


class AnyRankRequest(
    RootModel[
        Annotated[
            Annotated[RankRequest, Tag("tei")] | Annotated[RerankRequest, Tag("infinity")],
            Discriminator(_kind),
        ]
    ]
):
    """A request of text-embeddings-inference, or with `documents` one of infinity."""

    max_bytes: ClassVar[int | None] = Foreign.max_bytes


class Rank(Foreign):
    """A ranked text; its score is 0 to 1 unless it is raw."""

    index: int
    score: float
    text: str | None = None


class EmbeddingKind(Foreign):
    """An embedding model, and how it pools tokens."""

    pooling: str = "cls"


class ModelKind(Foreign):
    """Kind of the model."""

    embedding: EmbeddingKind = EmbeddingKind()


class Info(Foreign):
    """The model of the service and its limits."""

    model_id: str
    model_sha: str | None
    """Fingerprint of the model."""
    model_dtype: str
    model_type: ModelKind = ModelKind()
    max_concurrent_requests: int
    """Maximum number of waiting inputs."""
    max_input_length: int
    """Maximum number of tokens of a text; longer texts are truncated."""
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool = True
    tokenization_workers: int = 1
    version: str
    sha: str | None = None
    docker_label: str | None = None
