"""Routes `/v1/caption`, `/v1/answer` and `/v1/classify`, with their bodies."""

from typing import Annotated, TypeAlias

from fastapi import APIRouter
from pydantic import ConfigDict, Field, model_validator

from coca.core.errors import ConfigError
from coca.model.generation.generation_config import GenerationConfig
from coca.server.bodies import (
    MAX_TEXT,
    Body,
    CollectionName,
    ImageReference,
    Text,
    exactly_one,
    given_options,
    with_options,
)
from coca.server.routes.tenants import CurrentTenant, KeyedRoute

# Bodies of `/v1/caption`, `/v1/answer` and `/v1/classify`.


MAX_PROMPTS = 10_000
"""Maximum number of prompts of a classification: 1,000 labels in 10 templates."""
Template: TypeAlias = Annotated[str, Field(max_length=MAX_TEXT, pattern=r"\{\}")]


class ServedGeneration(GenerationConfig):
    """Options of generated captions with the limits of the service."""

    num_return_sequences: Annotated[int, Field(ge=1, le=16)] = 1
    num_beams: Annotated[int, Field(ge=1, le=16)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=512)] | None = None


@with_options(ServedGeneration, "num_return_sequences", "num_beams", "max_new_tokens", "words")
class CaptionRequest(ImageReference):
    """An image to caption."""

    model_config = ConfigDict(json_schema_extra=exactly_one("image", "id"))

    collection: CollectionName = None
    prompt: Annotated[str, Field(max_length=MAX_TEXT, json_schema_extra={"format": "prompt"})] = ""


class GeneratedCaption(Body):
    """A generated caption."""

    text: str
    completion: str
    """The generated text without the prompt."""
    score: float
    """Log-probability, in nats."""
    certainty: float | None
    """Probability that the first noun is right, 0 to 1; null with a prompt or if unknown."""
    noun: str
    """Noun that the model is sure of, used in place of an uncertain caption; empty without."""


class CaptionResponse(Body):
    """Captions, best first."""

    captions: list[GeneratedCaption]


class AnswerRequest(ImageReference):
    """A question about an image."""

    model_config = ConfigDict(json_schema_extra=exactly_one("image", "id"))

    collection: CollectionName = None
    question: Text
    limit: Annotated[int, Field(ge=1, le=100)] = 5


class ScoredLabel(Body):
    """A label or an answer with its probability."""

    label: str
    probability: float


class AnswerResponse(Body):
    """Answers, best first."""

    answers: list[ScoredLabel]


class ClassifyRequest(ImageReference):
    """An image and the labels to choose from."""

    model_config = ConfigDict(json_schema_extra=exactly_one("image", "id"))

    collection: CollectionName = None
    labels: Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=1_000)]
    templates: Annotated[list[Template], Field(fail_fast=True, min_length=1, max_length=100)] = [
        "{}"
    ]
    """Prompts with `{}` for the label."""

    @model_validator(mode="after")
    def _has_few_prompts(self) -> "ClassifyRequest":
        count = len(self.labels) * len(self.templates)
        if count > MAX_PROMPTS:
            raise ValueError(
                f"labels times templates must be at most {MAX_PROMPTS:,}, got {count:,}"
            )
        longest = max(map(len, self.labels))
        if any(len(one) + one.count("{}") * longest > 2 * MAX_TEXT for one in self.templates):
            raise ValueError(f"a label in its template must have at most {2 * MAX_TEXT:,} letters")
        return self


class ClassifyResponse(Body):
    """Labels, most probable first."""

    labels: list[ScoredLabel]


# Routes `/v1/caption`, `/v1/answer` and `/v1/classify`.


router = APIRouter(prefix="/v1", tags=["generation"], route_class=KeyedRoute)


@router.post("/caption")
def caption(body: CaptionRequest, tenant: CurrentTenant) -> CaptionResponse:
    """Generate captions of an image."""
    model = tenant.service.model
    image = tenant.image(body, body.collection)
    options = given_options(body, ServedGeneration)
    tenant.charge(captions=max(1, options.get("num_beams", 1) // 4), images=1)
    (best,) = model.caption([image], prompt=body.prompt, **options)
    return CaptionResponse(
        captions=[
            GeneratedCaption(
                text=one.text,
                completion=one.completion,
                score=one.score,
                certainty=one.certainty,
                noun=one.noun,
            )
            for one in (best, *best.others)
        ]
    )


@router.post("/answer")
def answer(body: AnswerRequest, tenant: CurrentTenant) -> AnswerResponse:
    """Answer a question by the head of the model; a model without one answers no question."""
    model = tenant.service.model
    if not model.predictor.answers_questions:
        raise ConfigError(
            "the model of this service has no head for questions, so it answers none: serve a "
            "model that `coca finetune` gave one, or use /v1/caption with the question as prompt"
        )
    tenant.charge(captions=1, images=1)
    (labels,) = model.answer([tenant.image(body, body.collection)], [body.question])
    found = [ScoredLabel(label=one.label, probability=one.probability) for one in labels]
    return AnswerResponse(answers=found[: body.limit])


@router.post("/classify")
def classify(body: ClassifyRequest, tenant: CurrentTenant) -> ClassifyResponse:
    """Classify an image zero-shot among any labels."""
    tenant.charge(texts=len(body.labels) * len(body.templates), images=1)
    image = tenant.image(body, body.collection)
    (labels,) = tenant.service.model.classify([image], body.labels, templates=body.templates)
    return ClassifyResponse(
        labels=[ScoredLabel(label=one.label, probability=one.probability) for one in labels]
    )
