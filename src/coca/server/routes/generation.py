"""Routes `/v1/caption`, `/v1/answer` and `/v1/classify`."""

import math
from typing import Any

from fastapi import APIRouter

from coca.server.routes.tenants import CurrentTenant, KeyedRoute
from coca.server.schemas.generation import (
    AnswerRequest,
    AnswerResponse,
    CaptionRequest,
    CaptionResponse,
    ClassifyRequest,
    ClassifyResponse,
    GeneratedCaption,
    ScoredLabel,
    WordMap,
)

router = APIRouter(prefix="/v1", tags=["generation"], route_class=KeyedRoute)


@router.post("/caption")
def caption(body: CaptionRequest, tenant: CurrentTenant) -> CaptionResponse:
    """Generate captions of an image, with a cross-attention map of each word if wanted."""
    model = tenant.service.model
    image = model.decoded(tenant.image(body, body.collection))
    options: dict[str, Any] = {"num_return_sequences": body.num_return_sequences}
    if body.num_beams is not None:
        options["num_beams"] = body.num_beams
    if body.max_new_tokens is not None:
        options["max_new_tokens"] = body.max_new_tokens
    tenant.charge(captions=max(1, (body.num_beams or 1) // 4), images=1)
    (best,) = model.caption([image], prompt=body.prompt, **options)
    maps = None
    if body.attention:
        found = model.explain(image, best, prompt=body.prompt)
        maps = [
            WordMap(word=word, grid=grid.tolist())
            for word, grid in zip(found.words, found.maps, strict=True)
        ]
    return CaptionResponse(
        captions=[
            GeneratedCaption(text=one.text, completion=one.completion, score=one.score)
            for one in (best, *best.others)
        ],
        attention=maps,
        attention_region=image.covered if body.attention else None,
    )


@router.post("/answer")
def answer(body: AnswerRequest, tenant: CurrentTenant) -> AnswerResponse:
    """Answer a question by the head of the model, or by generation if it has no such head."""
    model = tenant.service.model
    image = tenant.image(body, body.collection)
    if model.answers_questions:
        (labels,) = model.answer([image], [body.question])
        found = [ScoredLabel(label=one.label, probability=one.probability) for one in labels]
        return AnswerResponse(answers=found[: body.limit], method="head")
    (best,) = model.caption([image], prompt=body.question)
    return AnswerResponse(
        answers=[ScoredLabel(label=best.completion, probability=min(1.0, math.exp(best.score)))],
        method="generation",
    )


@router.post("/classify")
def classify(body: ClassifyRequest, tenant: CurrentTenant) -> ClassifyResponse:
    """Classify an image zero-shot among any labels."""
    tenant.charge(texts=len(body.labels) * len(body.templates), images=1)
    image = tenant.image(body, body.collection)
    (labels,) = tenant.service.model.classify([image], body.labels, templates=body.templates)
    return ClassifyResponse(
        labels=[ScoredLabel(label=one.label, probability=one.probability) for one in labels]
    )
