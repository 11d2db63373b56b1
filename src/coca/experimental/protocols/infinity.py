"""Route `/embeddings` of Infinity, and its form of `/rerank`, which `tei` serves."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import ConfigDict

from coca.experimental.protocols.openai import (
    EmbeddingRequest,
    EmbeddingResponse,
    Foreign,
    RerankRequest,
    TextOrImage,
    Usage,
    embeddings,
    rerank,
)
from coca.server.routes.tenants import CurrentTenant, KeyedRoute

router = APIRouter(tags=["infinity"], route_class=KeyedRoute)


_URI = {"type": "string", "format": "image-data-uri"}
_IMAGE: Any = {"anyOf": [_URI, {"type": ["object", "array", "integer"]}]}


class ModalEmbeddingRequest(EmbeddingRequest):
    """Texts, or with a modality images, as data URIs or base64."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"modality": {"enum": ["text", None]}}},
                {"properties": {"input": {**_IMAGE, "items": _IMAGE}}},
            ]
        }
    )

    modality: Literal["text", "image"] | None = None


class InfinityDocument(Foreign):
    """A document with its score, 0 to 1."""

    index: int
    relevance_score: float
    document: str | None = None


class InfinityRerankResponse(Foreign):
    """Documents, best first."""

    object: Literal["rerank"] = "rerank"
    id: str
    model: str
    created: int = 0
    results: list[InfinityDocument]
    usage: Usage


@router.post("/embeddings")
def embeddings_by_modality(body: ModalEmbeddingRequest, tenant: CurrentTenant) -> EmbeddingResponse:
    """Embed texts or images, as `/v1/embeddings` does."""
    if body.modality == "image":
        inputs = body.input if isinstance(body.input, list) else [body.input]
        files = [TextOrImage(image=it) if isinstance(it, str) else it for it in inputs]
        return embeddings(body.model_copy(update={"input": files}), tenant)
    return embeddings(body, tenant)


def infinity_response(body: RerankRequest, tenant: CurrentTenant) -> InfinityRerankResponse:
    """Rank documents, and return their texts as strings."""
    answer = rerank(body, tenant)
    return InfinityRerankResponse(
        id=answer.id,
        model=answer.model,
        results=[
            InfinityDocument(
                index=result.index,
                relevance_score=result.relevance_score,
                document=(result.document or {}).get("text"),
            )
            for result in answer.results
        ],
        usage=answer.usage,
    )
