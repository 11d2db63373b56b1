"""Bodies of `/v1/embeddings`, `/v1/rerank` and `/v1/models`, as OpenAI, Jina and Cohere have them.

`/rerank` of infinity is here as well. Unknown fields are ignored, since clients send fields of
other services, and null is the default of a field, since clients in other languages send it.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, field_validator

from coca.server.schemas.shared import MAX_TEXT, DataUri

MAX_INPUTS = 2_048
"""Maximum number of inputs of one request, as of OpenAI."""
MAX_TOKENS = 8_192
"""Maximum number of token ids of one input, as of OpenAI."""


class Foreign(BaseModel):
    """Base class of bodies that other services define."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)

    max_bytes: ClassVar[int | None] = None
    """As in `Body`: all requests may have images."""


class TextOrImage(Foreign):
    """A text or an image, as Jina has it."""

    text: str | None = None
    image: DataUri | None = None


Input: TypeAlias = str | TextOrImage
TokenId: TypeAlias = Annotated[StrictInt, Field(ge=0)]
TokenIds: TypeAlias = Annotated[
    list[TokenId],
    Field(
        min_length=1,
        max_length=MAX_TOKENS,
        description="Token ids of the encoding cl100k_base, as langchain-openai sends them; they "
        "need tiktoken on the machine of the service.",
    ),
]


class EmbeddingRequest(Foreign):
    """Texts or images to embed."""

    input: (
        Annotated[str, Field(min_length=1)]
        | TextOrImage
        | Annotated[list[Input], Field(min_length=1, max_length=MAX_INPUTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    model: str | None = None
    """Ignored: the service has one model."""
    modality: Literal["text", "image"] | None = None
    """Kind of inputs that are plain strings, as infinity has it; images are data URIs."""
    encoding_format: Literal["float", "base64"] | None = None
    """Null: `float`."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Keep the first numbers only, and normalize them again."""

    @field_validator("input", mode="before")
    @classmethod
    def _check_length(cls, given: Any) -> Any:
        """Reject a long list before each of its elements becomes an error of each form of input."""
        if isinstance(given, list) and given:
            tokens = type(given[0]) is int
            most, of = (MAX_TOKENS, "token ids") if tokens else (MAX_INPUTS, "inputs")
            if len(given) > most:
                raise ValueError(f"must have at most {most:,} {of}, got {len(given):,}")
        return given


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


class Document(TextOrImage):
    """A text or an image, or a dictionary with any fields, as Cohere has it."""

    model_config = ConfigDict(extra="allow")


class RerankRequest(Foreign):
    """A query and the documents to rank."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    documents: Annotated[list[str | Document], Field(min_length=1, max_length=1_000)]
    model: str | None = None
    """Ignored: the service has one model."""
    rank_fields: list[str] | None = None
    """Fields of dictionaries to rank by. Default: `text`, or all fields where it is missing."""
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: StrictBool | None = None


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


class InfinityDocument(Foreign):
    """A document with its score, 0 to 1, as infinity has it."""

    index: int
    relevance_score: float
    document: str | None = None


class InfinityRerankResponse(Foreign):
    """Documents, best first, as infinity has them."""

    object: Literal["rerank"] = "rerank"
    id: str
    model: str
    created: int = 0
    results: list[InfinityDocument]
    usage: Usage


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
