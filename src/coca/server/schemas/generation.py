"""Bodies of `/v1/caption`, `/v1/answer` and `/v1/classify`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from coca.server.schemas.shared import (
    MAX_TEXT,
    Body,
    CollectionName,
    ImageReference,
    Text,
)

MAX_PROMPTS = 10_000
"""Maximum number of prompts of a classification: 1,000 labels in 10 templates."""


class CaptionRequest(ImageReference):
    """An image to caption."""

    collection: CollectionName = None
    prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    num_beams: Annotated[int, Field(ge=1, le=16)] | None = None
    num_return_sequences: Annotated[int, Field(ge=1, le=16)] = 1
    max_new_tokens: Annotated[int, Field(ge=1, le=512)] | None = None
    attention: bool = False
    """Compute a cross-attention map for each word of the best caption."""


class WordMap(Body):
    """Cross-attention of one word: rows of a grid over the image, which sum to 1."""

    word: str
    grid: list[list[float]]


class GeneratedCaption(Body):
    """A generated caption."""

    text: str
    completion: str
    """The generated text without the prompt."""
    score: float
    """Log-probability, in nats."""


class CaptionResponse(Body):
    """Captions, best first."""

    captions: list[GeneratedCaption]
    attention: list[WordMap] | None = None
    attention_region: tuple[float, float, float, float] | None = None
    """Part of the image that the maps cover: left, top, right and bottom as fractions of width and
    height. Below 0 or above 1 where the model pads the image."""


class AnswerRequest(ImageReference):
    """A question about an image."""

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
    method: Literal["head", "generation"]
    """Classifier of the model's head, or generation with the question as prompt."""


class ClassifyRequest(ImageReference):
    """An image and the labels to choose from."""

    collection: CollectionName = None
    labels: Annotated[list[Text], Field(min_length=1, max_length=1_000)]
    templates: Annotated[list[Text], Field(min_length=1, max_length=100)] = ["{}"]
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
