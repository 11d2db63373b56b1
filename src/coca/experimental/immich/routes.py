"""Routes `/predict` and `/ping` of immich's machine learning service: its smart search."""

import json
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import ConfigDict, Field, model_validator

from coca.experimental.protocols.openai import Foreign
from coca.server.bodies import DataUri
from coca.server.images.data_uris import read_data_uri
from coca.server.routes.tenants import CurrentTenant, KeyedRoute


class PredictEntry(Foreign):
    """A model of a task; ignored, since the service has one model."""

    modelName: str = ""  # noqa: N815


def _task(kind: str, needed: str, **types: str) -> dict[str, Any]:
    """Build the schema of the requests of a kind of model, by the types of their fields."""
    entries = {"required": ["clip"], "properties": {"clip": {"required": [kind]}}}
    shown = {name: {"type": type_} for name, type_ in types.items()}
    return {"required": [needed], "properties": {"entries": entries, **shown}}


class PredictRequest(Foreign):
    """An image or a text, and the task: only `clip`, the embedding, is available."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                _task("visual", "image", image="string"),
                _task("textual", "text", text="string", image="null"),
            ]
        }
    )

    entries: dict[
        Literal["clip"],
        Annotated[
            dict[Literal["visual", "textual"], PredictEntry], Field(min_length=1, max_length=1)
        ],
    ]
    image: DataUri | None = None
    text: str | None = None

    @model_validator(mode="after")
    def _has_the_input_of_its_task(self) -> "PredictRequest":
        kinds = [kind for types in self.entries.values() for kind in types]
        if kinds != ["textual" if self.image is None else "visual"] or (
            self.image is None and self.text is None
        ):
            raise ValueError('entries must be {"clip": {"visual": ...}} for an image, or textual')
        return self


class PredictResponse(Foreign):
    """The embedding as a JSON array in a string, and the size of an image in pixels."""

    clip: str
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815


router = APIRouter(tags=["immich"], route_class=KeyedRoute)


@router.get("/ping", response_class=PlainTextResponse)
async def ping() -> str:
    """Report that the process answers."""
    return "pong"


@router.post("/predict", response_model_exclude_none=True)
def predict(body: PredictRequest, tenant: CurrentTenant) -> PredictResponse:
    """Embed an image or a text, as immich's server asks for its smart search."""
    model = tenant.service.model
    tenant.charge(texts=body.image is None, images=body.image is not None)
    if body.image is None:
        (vector,) = model.embed_texts([body.text or ""])
        return PredictResponse(clip=_array(vector))
    image = model.decoded(read_data_uri(body.image))
    (vector,) = model.embed_images([image])
    return PredictResponse(clip=_array(vector), imageHeight=image.height, imageWidth=image.width)


def _array(vector: np.ndarray) -> str:
    return json.dumps([float(number) for number in vector])
