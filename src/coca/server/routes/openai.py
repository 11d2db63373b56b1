"""Routes `/v1/embeddings`, `/v1/rerank`, `/v2/rerank`, `/v1/models`: OpenAI, Jina, Cohere.

infinity has the same routes without `/v1`; its `/rerank` is in `tei`, which has the same path.
"""

import base64
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter
from jaxtyping import Float, Float32

from coca.core.errors import ConfigError
from coca.runtime.short_vectors import shortened
from coca.server.errors import ServiceError
from coca.server.images.data_uris import read_data_uri
from coca.server.model.served_model import ServedModel
from coca.server.requests.token_ids import decode_tokens
from coca.server.routes.tenants import CurrentTenant, KeyedRoute
from coca.server.schemas.openai import (
    Document,
    Embedding,
    EmbeddingRequest,
    EmbeddingResponse,
    Input,
    Model,
    ModelList,
    RankedDocument,
    RerankRequest,
    RerankResponse,
    TextOrImage,
    Usage,
)
from coca.server.service import Tenant

router = APIRouter(tags=["openai"], route_class=KeyedRoute)


@router.post("/v1/embeddings")
@router.post("/embeddings")
def embeddings(body: EmbeddingRequest, tenant: CurrentTenant) -> EmbeddingResponse:
    """Embed texts, and images as data URIs."""
    model = tenant.service.model
    texts, images = split_inputs(_inputs(body), images=body.modality == "image")
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


@router.post("/v1/rerank")
@router.post("/v2/rerank")
def rerank(body: RerankRequest, tenant: CurrentTenant) -> RerankResponse:
    """Rank documents: images by the likelihood of the query as caption, texts by the cosine."""
    model = tenant.service.model
    order, scores, usage = rank_documents(tenant, body)
    return RerankResponse(
        id=uuid.uuid4().hex,
        model=name_of(model),
        results=[
            RankedDocument(
                index=row,
                relevance_score=scores[row],
                document=_document(body.documents[row]) if body.return_documents else None,
            )
            for row in order
        ],
        usage=usage,
    )


@router.get("/v1/models")
@router.get("/models")
def models(tenant: CurrentTenant) -> ModelList:
    """List the model of the service."""
    return ModelList(data=[Model(id=name_of(tenant.service.model))])


@router.get("/v1/models/{id:path}")
@router.get("/models/{id:path}")
def model(id: str, tenant: CurrentTenant) -> Model:
    """Return the model of the service.

    Raises:
        ServiceError: It has another name (status 404).
    """
    name = name_of(tenant.service.model)
    if id != name:
        raise ServiceError(
            f"there is no model {id!r}; this service has {name!r}",
            status=404,
            code="model_not_found",
        )
    return Model(id=name)


def rank_documents(tenant: Tenant, body: RerankRequest) -> tuple[list[int], list[float], Usage]:
    """Rank the documents of a request.

    Returns:
        Positions of the best documents, best first; the scores of all documents; the usage.
    """
    model = tenant.service.model
    documents = [_ranked_by(one, body.rank_fields) for one in body.documents]
    texts, images = split_inputs(documents)
    tenant.charge(texts=1 + len(texts), images=len(images))
    scores = document_scores(model, body.query, texts, images)
    order = np.argsort(-scores, kind="stable")[: body.top_n]
    return order.tolist(), scores.tolist(), _usage(model, [body.query, *texts.values()])


def document_scores(
    model: ServedModel, query: str, texts: Mapping[int, str], images: Mapping[int, bytes]
) -> Float[np.ndarray, " N"]:
    """Score documents for a query, 0 to 1; texts and images are given by position.

    The score of an image is the probability of a token of the query, given the image: the geometric
    mean over the tokens. The score of a text is (1 + cosine) / 2.
    """
    scores = np.zeros(len(texts) + len(images))
    if images:
        scores[list(images)] = model.token_probabilities(list(images.values()), query)
    if texts:
        vector, *others = model.embed_texts([query, *texts.values()])
        scores[list(texts)] = np.clip((1 + np.stack(others) @ vector) / 2, 0, 1)
    return scores


def name_of(model: ServedModel) -> str:
    """Return the name of the model: its folder's name, else its fingerprint."""
    return Path(model.predictor.source).name or model.fingerprint


def split_inputs(
    inputs: Sequence[Input], *, images: bool = False
) -> tuple[dict[int, str], dict[int, bytes]]:
    """Separate texts and images, by position; plain data URIs are images, too.

    Args:
        inputs: Texts and images.
        images: Whether all plain strings are images.

    Raises:
        ConfigError: An input is both or neither, or an image is no data URI.
    """
    texts: dict[int, str] = {}
    found: dict[int, bytes] = {}
    for row, one in enumerate(inputs):
        if isinstance(one, str):
            if images or one.startswith("data:image/"):
                found[row] = read_data_uri(one)
            else:
                texts[row] = one
        elif one.image is not None:
            if one.text is not None:
                raise ConfigError("an input must be a text or an image, got both")
            found[row] = read_data_uri(one.image)
        elif one.text is not None:
            texts[row] = one.text
        else:
            raise ConfigError("an input must be a text or an image, got neither")
    return texts, found


def _encoded(vector: Float32[np.ndarray, " E"], form: str | None) -> list[float] | str:
    if form != "base64":
        return [float(number) for number in vector]
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _usage(model: ServedModel, texts: Sequence[str]) -> Usage:
    tokens = sum(map(model.count_tokens, texts))
    return Usage(prompt_tokens=tokens, total_tokens=tokens)


def _inputs(body: EmbeddingRequest) -> list[Input]:
    """List the inputs of a request, token ids decoded to texts."""
    given = body.input if isinstance(body.input, list) else [body.input]
    if isinstance(given[0], int):
        return [*decode_tokens([[one for one in given if isinstance(one, int)]])]
    if isinstance(given[0], list):
        return [*decode_tokens([one for one in given if isinstance(one, list)])]
    return [one for one in given if isinstance(one, str | TextOrImage)]


def _ranked_by(document: str | Document, fields: Sequence[str] | None) -> Input:
    """Return what a document is ranked by; of a dictionary without a text, its values in lines."""
    if isinstance(document, str) or (fields is None and document.text is not None):
        return document
    if document.image is not None:
        return document
    values = document.model_dump(exclude_none=True)
    chosen = values if fields is None else {name: values.get(name, "") for name in fields}
    return "\n".join(str(value) for value in chosen.values())


def _document(document: str | Document) -> dict[str, Any]:
    if isinstance(document, str):
        return {"text": document}
    return document.model_dump(exclude_none=True)
