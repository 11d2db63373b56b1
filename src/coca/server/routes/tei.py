"""Routes `/embed`, `/rerank` and `/info` for clients of text-embeddings-inference."""

import numpy as np
from fastapi import APIRouter

from coca import __version__
from coca.runtime.short_vectors import shortened
from coca.server.routes.openai import document_scores, name_of, split_inputs
from coca.server.routes.tenants import CurrentTenant, KeyedRoute
from coca.server.schemas.openai import MAX_INPUTS
from coca.server.schemas.tei import EmbedRequest, Info, Rank, RankRequest

router = APIRouter(tags=["text-embeddings-inference"], route_class=KeyedRoute)


@router.post("/embed")
def embed(body: EmbedRequest, tenant: CurrentTenant) -> list[list[float]]:
    """Embed texts, and images as data URIs."""
    model = tenant.service.model
    inputs = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    vectors = model.embed_mixed(*split_inputs(inputs))
    if body.dimensions is not None:
        vectors = shortened(vectors, body.dimensions)
    return [[float(number) for number in vector] for vector in vectors]


@router.post("/rerank", response_model_exclude_none=True)
def rerank(body: RankRequest, tenant: CurrentTenant) -> list[Rank]:
    """Rank texts by the cosine, and images by the likelihood of the query as caption."""
    texts, images = split_inputs(body.texts)
    scores = document_scores(tenant.service.model, body.query, texts, images)
    shown = scores.copy()
    if body.raw_scores:
        shown[list(texts)] = 2 * scores[list(texts)] - 1
        tiny = np.finfo(np.float64).tiny
        shown[list(images)] = np.log(np.maximum(scores[list(images)], tiny))
    return [
        Rank(
            index=int(row),
            score=float(shown[row]),
            text=body.texts[row] if body.return_text else None,
        )
        for row in np.argsort(-shown, kind="stable")
    ]


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
