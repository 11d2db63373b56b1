"""Routes of text-embeddings-inference: `/embed`, `/rerank`, `/similarity`, `/info`."""

import uuid
from collections.abc import Mapping

import numpy as np
from fastapi import APIRouter

from coca import __version__
from coca.runtime.short_vectors import shortened
from coca.server.model.served_model import ServedModel
from coca.server.routes.openai import document_scores, name_of, rank_documents, split_inputs
from coca.server.routes.tenants import CurrentTenant, KeyedRoute
from coca.server.schemas.openai import (
    MAX_INPUTS,
    InfinityDocument,
    InfinityRerankResponse,
    RerankRequest,
)
from coca.server.schemas.tei import (
    AnyRankRequest,
    EmbedRequest,
    Info,
    Rank,
    SimilarityRequest,
    Truncation,
)
from coca.server.service import Tenant

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
        return _infinity_response(tenant, request)
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


@router.post("/similarity")
def similarity(body: SimilarityRequest, tenant: CurrentTenant) -> list[float]:
    """Compute the cosine of a text or image with each of several texts or images."""
    model, given = tenant.service.model, body.inputs
    texts, images = split_inputs([given.source_sentence, *given.sentences])
    if body.parameters is not None:
        texts = dict(_truncated(model, body.parameters, texts))
    tenant.charge(texts=len(texts), images=len(images))
    source, *others = model.embed_mixed(texts, images)
    return [float(cosine) for cosine in np.stack(others) @ source]


@router.get("/info")
def info(tenant: CurrentTenant) -> Info:
    """Report the model of the service and its limits."""
    model, settings = tenant.service.model, tenant.service.settings
    length = model.backend.context_length
    return Info(
        model_id=name_of(model),
        model_sha=model.fingerprint,
        model_dtype=model.backend.dtype,
        max_concurrent_requests=settings.queue_size,
        max_input_length=length,
        max_batch_tokens=settings.max_batch * length,
        max_batch_requests=settings.max_batch,
        max_client_batch_size=MAX_INPUTS,
        version=__version__,
    )


def _truncated(
    model: ServedModel, request: Truncation, texts: Mapping[int, str]
) -> Mapping[int, str]:
    """Shorten texts at the left where a request wants it; the model itself does at the right."""
    if not request.truncates_left:
        return texts
    return {row: model.last_part(text) for row, text in texts.items()}


def _infinity_response(tenant: Tenant, body: RerankRequest) -> InfinityRerankResponse:
    order, scores, usage = rank_documents(tenant, body)
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    return InfinityRerankResponse(
        id=uuid.uuid4().hex,
        model=name_of(tenant.service.model),
        results=[
            InfinityDocument(
                index=row,
                relevance_score=scores[row],
                document=texts[row] if body.return_documents else None,
            )
            for row in order
        ],
        usage=usage,
    )
