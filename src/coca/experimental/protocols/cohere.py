"""Route `/v2/rerank` of Cohere: the same as `/v1/rerank`."""

from fastapi import APIRouter

from coca.experimental.protocols.openai import RerankRequest, RerankResponse, rerank
from coca.server.routes.tenants import CurrentTenant, KeyedRoute

router = APIRouter(tags=["cohere"], route_class=KeyedRoute)


@router.post("/v2/rerank")
def rerank_v2(body: RerankRequest, tenant: CurrentTenant) -> RerankResponse:
    """Rank documents, as `/v1/rerank` does."""
    return rerank(body, tenant)
