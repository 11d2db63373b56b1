"""Routes `/embed`, `/rerank`, `/info` and `/health` for clients of text-embeddings-inference.

Unknown fields are ignored. Vectors have length 1 always, and long texts are truncated.
"""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import Discriminator, Field, RootModel, Tag

from coca import __version__
from coca.experimental.protocols.infinity import InfinityRerankResponse, infinity_response
from coca.experimental.protocols.openai import (
    MAX_INPUTS,
    Foreign,
    RerankRequest,
    document_scores,
    name_of,
    split_inputs,
)
from coca.runtime.short_vectors import shortened
from coca.server.bodies import MAX_TEXT
from coca.server.routes.operations import healthz
from coca.server.routes.tenants import CurrentTenant, KeyedRoute
from coca.server.served_model import ServedModel


class Truncation(Foreign):
    """How inputs that are too long are shortened."""

    truncate: bool | None = None
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
        | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
    )
    normalize: bool | None = None
    """Ignored: vectors have length 1."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Keep the first numbers only, and normalize them again."""


class RankRequest(Truncation):
    """A query and the texts to rank, or images as data URIs."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    texts: Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=1_000)]
    raw_scores: bool | None = None
    """Return the cosine of a text; for an image, the mean log probability of a token, in nats."""
    return_text: bool | None = None


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


class Info(Foreign):
    """The model of the service and its limits."""

    model_id: str
    model_sha: str | None
    """Fingerprint of the model."""
    model_dtype: str
    model_type: dict[str, dict[str, str]] = {"embedding": {"pooling": "cls"}}
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


router = APIRouter(tags=["text-embeddings-inference"], route_class=KeyedRoute)


@router.post("/embed")
def embed(body: EmbedRequest, tenant: CurrentTenant) -> list[list[float]]:
    """Embed texts, and images as data URIs."""
    model = tenant.service.model
    inputs = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    texts, images = split_inputs(inputs)
    tenant.charge(texts=len(texts), images=len(images))
    vectors = model.embed_mixed(_truncated(model, body, texts), images)
    if body.dimensions is not None:
        vectors = shortened(vectors, body.dimensions)
    return [[float(number) for number in vector] for vector in vectors]


@router.post("/rerank", response_model_exclude_none=True)
def rerank(body: AnyRankRequest, tenant: CurrentTenant) -> list[Rank] | InfinityRerankResponse:
    """Rank texts by the cosine, and images by the likelihood of the query as caption.

    A request with `documents` in place of `texts` is one of infinity.
    """
    model = tenant.service.model
    request = body.root
    if isinstance(request, RerankRequest):
        return infinity_response(request, tenant)
    texts, images = split_inputs(request.texts)
    tenant.charge(texts=1 + len(texts), images=len(images))
    scores = document_scores(model, request.query, _truncated(model, request, texts), images)
    shown = scores.copy()
    if request.raw_scores:
        shown[list(texts)] = 2 * scores[list(texts)] - 1
        tiny = np.finfo(np.float64).tiny
        shown[list(images)] = np.log(np.maximum(scores[list(images)], tiny))
    return [
        Rank(
            index=int(row),
            score=float(shown[row]),
            text=request.texts[row] if request.return_text else None,
        )
        for row in np.argsort(-shown, kind="stable")
    ]


@router.get("/info")
def info(tenant: CurrentTenant) -> Info:
    """Report the model of the service and its limits."""
    model, settings = tenant.service.model, tenant.service.settings
    length = model.predictor.context_length
    return Info(
        model_id=name_of(model),
        model_sha=model.fingerprint,
        model_dtype=model.predictor.dtype,
        max_concurrent_requests=settings.queue_size,
        max_input_length=length,
        max_batch_tokens=settings.max_batch * length,
        max_batch_requests=settings.max_batch,
        max_client_batch_size=MAX_INPUTS,
        version=__version__,
    )


@router.get("/health")
async def health() -> dict[str, str]:
    """Report that the process answers."""
    return await healthz()


def _truncated(
    model: ServedModel, request: Truncation, texts: Mapping[int, str]
) -> Mapping[int, str]:
    """Shorten texts at the left where a request wants it; the model itself does at the right."""
    if not request.truncates_left:
        return texts
    return {row: _last_part(model, text) for row, text in texts.items()}


def _last_part(model: ServedModel, text: str) -> str:
    """Return the longest end of a text that the model reads completely."""
    room = model.predictor.max_text_tokens

    def fits(start: int) -> bool:
        return len(model.predictor.leading_ids(text[start:], room + 1)) <= room

    return text if fits(0) else text[bisect_left(range(len(text)), True, key=fits) :]
