"""Routes `/v1/embeddings` and `/v1/models` of OpenAI.

Unknown fields are ignored, since clients send fields of other services, and null is the default of
a field, since clients in other languages send it.
"""

import base64
import logging
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from fastapi import APIRouter
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from coca.core.errors import ConfigError
from coca.predict.short_vectors import shortened
from coca.server.bodies import Body, DataUri, exactly_one
from coca.server.errors import ServiceError
from coca.server.images.data_uris import read_data_uri
from coca.server.routes.tenants import CurrentTenant, KeyedRoute
from coca.server.served_model import ServedModel

MAX_INPUTS = 2_048
"""Maximum number of inputs of one request, as of OpenAI."""
MAX_TOKENS = 8_192
"""Maximum number of token ids of one input, as of OpenAI."""
MAX_TOKEN_ID = 100_255
"""Largest token id of `ENCODING`, special tokens aside."""


class Foreign(BaseModel):
    """Base class of bodies that other services define."""

    model_config = {**Body.model_config, "extra": "ignore"}

    max_bytes: ClassVar[int | None] = None
    """As in `Body`: all requests may have images."""


class TextOrImage(Foreign):
    """A text or an image, as Jina has it."""

    model_config = ConfigDict(json_schema_extra=exactly_one("text", "image"))

    text: str | None = None
    image: DataUri | None = None


Input: TypeAlias = str | TextOrImage
TokenId: TypeAlias = Annotated[
    int, Field(json_schema_extra={"minimum": 0, "maximum": MAX_TOKEN_ID})
]
TokenIds: TypeAlias = Annotated[
    list[TokenId],
    Field(
        fail_fast=True,
        min_length=1,
        max_length=MAX_TOKENS,
        description="Token ids of the encoding cl100k_base, as langchain-openai sends them; they "
        "need tiktoken on the machine of the service.",
    ),
]


def _form_of(value: Any) -> str:
    """Name the form of an input by its first value, so that only this form is validated."""
    if not isinstance(value, list):
        return "text" if isinstance(value, str) else "object"
    first = value[0] if value else ""
    if isinstance(first, int | list):
        return "several ids" if isinstance(first, list) else "ids"
    return "inputs"


class EmbeddingRequest(Foreign):
    """Texts or images to embed."""

    input: Annotated[
        Annotated[str, Field(min_length=1), Tag("text")]
        | Annotated[TextOrImage, Tag("object")]
        | Annotated[
            list[Input], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS), Tag("inputs")
        ]
        | Annotated[TokenIds, Tag("ids")]
        | Annotated[
            list[TokenIds],
            Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS),
            Tag("several ids"),
        ],
        Discriminator(_form_of),
    ]
    model: str | None = None
    """Ignored: the service has one model."""
    encoding_format: Literal["float", "base64"] | None = None
    """Null: `float`."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Keep the first numbers only, and normalize them again."""


class Embedding(Foreign):
    """An embedding; base64 contains little-endian 32-bit floats."""

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


class Model(Foreign):
    """The model of the service."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "coca"


class ModelList(Foreign):
    """The only model of the service."""

    object: Literal["list"] = "list"
    data: list[Model]


logger = logging.getLogger(__name__)

ENCODING = "cl100k_base"
"""Encoding of OpenAI's embedding models, and the one that clients choose for an unknown model."""

_loading = threading.Lock()
_loaded: list[Any] = []
"""The encoding, or None after it could not be loaded: tiktoken downloads it at its first use."""


def decode_tokens(inputs: Sequence[Sequence[int]]) -> list[str]:
    """Decode the token ids of each input to a text."""
    encoding = _encoding()
    if encoding is None:
        raise ConfigError(
            f"input must be texts: this service cannot decode token ids, since tiktoken or its "
            f"encoding {ENCODING} is missing; with langchain-openai pass "
            "check_embedding_ctx_length=False"
        )
    for id in (id for ids in inputs for id in ids):
        if not 0 <= id <= MAX_TOKEN_ID:
            raise ConfigError(f"token ids of {ENCODING} are 0 to {MAX_TOKEN_ID:,}, got {id:,}")
    return [encoding.decode(ids) for ids in inputs]


def _encoding() -> Any:
    """Load the encoding once; requests meanwhile do not wait, since a download may hang."""
    if not _loaded and _loading.acquire(blocking=False):
        try:
            # No dependency of the service: it is where clients of OpenAI are installed as well.
            _loaded.append(import_module("tiktoken").get_encoding(ENCODING))
        except Exception as error:
            # The import, the download, or its checksum.
            logger.warning("token ids of clients cannot be decoded: %s", error)
            _loaded.append(None)
        finally:
            _loading.release()
    return _loaded[0] if _loaded else None


router = APIRouter(tags=["openai"], route_class=KeyedRoute)


@router.post("/v1/embeddings")
def embeddings(body: EmbeddingRequest, tenant: CurrentTenant) -> EmbeddingResponse:
    """Embed texts, and images as data URIs."""
    model = tenant.service.model
    texts, images = split_inputs(_inputs(body))
    tenant.charge(texts=len(texts), images=len(images))
    vectors = model.embed_mixed(texts, images)
    if body.dimensions is not None:
        vectors = shortened(vectors, body.dimensions)
    return EmbeddingResponse(
        data=[
            Embedding(index=row, embedding=_encoded(vector, body.encoding_format))
            for row, vector in enumerate(vectors)
        ],
        model=name_of(model),
        usage=_usage(model, list(texts.values())),
    )


@router.get("/v1/models")
def models(tenant: CurrentTenant) -> ModelList:
    """List the model of the service."""
    return ModelList(data=[Model(id=name_of(tenant.service.model))])


@router.get("/v1/models/{id:path}")
def model(id: str, tenant: CurrentTenant) -> Model:
    """Return the model of the service."""
    name = name_of(tenant.service.model)
    if id != name:
        raise ServiceError(
            f"there is no model {id!r}; this service has {name!r}",
            status=404,
            code="model_not_found",
        )
    return Model(id=name)


def name_of(model: ServedModel) -> str:
    """Return the name of the model: its folder's name, else its fingerprint."""
    return Path(model.predictor.source).name or model.fingerprint


def split_inputs(inputs: Sequence[Input]) -> tuple[dict[int, str], dict[int, bytes]]:
    """Separate texts from images, by position; plain data URIs are images, too."""
    texts: dict[int, str] = {}
    files: dict[int, bytes] = {}
    for row, entry in enumerate(inputs):
        if isinstance(entry, str):
            if entry.startswith("data:image/"):
                files[row] = read_data_uri(entry)
            else:
                texts[row] = entry
            continue
        values = [it for it in (entry.text, entry.image) if it is not None]
        if len(values) != 1:
            count = "several" if values else "none"
            raise ConfigError(f"an input must be a text or an image, got {count}")
        if entry.text is not None:
            texts[row] = entry.text
        else:
            files[row] = read_data_uri(values[0])
    return texts, files


def _encoded(vector: Float32[np.ndarray, " E"], form: str | None) -> list[float] | str:
    if form != "base64":
        return [float(number) for number in vector]
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _usage(model: ServedModel, texts: Sequence[str]) -> Usage:
    tokens = sum(map(model.count_tokens, texts))
    return Usage(prompt_tokens=tokens, total_tokens=tokens)


def _inputs(body: EmbeddingRequest) -> list[Input]:
    """List the inputs of a request, token ids decoded to texts."""
    inputs = body.input if isinstance(body.input, list) else [body.input]
    if isinstance(inputs[0], int):
        return [*decode_tokens([[id for id in inputs if isinstance(id, int)]])]
    if isinstance(inputs[0], list):
        return [*decode_tokens([ids for ids in inputs if isinstance(ids, list)])]
    return [entry for entry in inputs if isinstance(entry, str | TextOrImage)]
