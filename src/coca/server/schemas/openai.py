"""Bodies of `/v1/embeddings`, `/v1/rerank` and `/v1/models`, as OpenAI, Jina and Cohere have them.

Unknown fields are ignored, since clients send fields of other services.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from coca.server.schemas.shared import MAX_TEXT, DataUri

MAX_INPUTS = 2_048
"""Maximum number of inputs of one request, as of OpenAI."""


class Foreign(BaseModel):
    """Base class of bodies that other services define."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)

    max_bytes: ClassVar[int | None] = None
    """As in `Body`: all requests may have images."""


LongText: TypeAlias = Annotated[str, Field(min_length=1)]


class TextOrImage(Foreign):
    """A text or an image, as Jina has it."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] | None = None
    image: DataUri | None = None


Input: TypeAlias = LongText | TextOrImage


class EmbeddingRequest(Foreign):
    """Texts or images to embed."""

    input: Input | Annotated[list[Input], Field(min_length=1, max_length=MAX_INPUTS)]
    model: str = ""
    """Ignored: the service has one model."""
    modality: Literal["text", "image"] = "text"
    """Kind of inputs that are plain strings, as infinity has it; images are data URIs."""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Keep the first numbers only, and normalize them again."""


class Embedding(Foreign):
    """An embedding; base64 holds little-endian 32-bit floats."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Foreign):
    """Number of tokens; an image counts as none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(Foreign):
    """Embeddings in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class RerankRequest(Foreign):
    """A query and the documents to rank."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    documents: Annotated[list[Input], Field(min_length=1, max_length=1_000)]
    model: str = ""
    """Ignored: the service has one model."""
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: StrictBool = False


class RankedDocument(Foreign):
    """A document with its score, 0 to 1."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankResponse(Foreign):
    """Documents, best first."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: Usage
    meta: dict[str, Any] = {}


class Model(Foreign):
    """The model of the service."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "coca"


class ModelList(Foreign):
    """The models of the service."""

    object: Literal["list"] = "list"
    data: list[Model]
