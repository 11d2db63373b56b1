"""Routes `/v1/search` and `/v1/collections`."""

import time

from fastapi import APIRouter

from coca.server.requests.answers import hit_of
from coca.server.requests.queries import search as find
from coca.server.routes.tenants import CurrentTenant
from coca.server.schemas.collections import CollectionDescription, CollectionList
from coca.server.schemas.search import SearchRequest, SearchResponse

router = APIRouter(prefix="/v1", tags=["search"])


@router.post("/search")
def search(body: SearchRequest, tenant: CurrentTenant) -> SearchResponse:
    """Search by text, image, item, region or examples; without a query, list items newest first."""
    started = time.perf_counter()
    collection = tenant.collection(body.collection)
    hits, total, scored = find(tenant, body)
    marks = [hit.matches for hit in hits if hit.matches is not None]
    return SearchResponse(
        collection=collection.name,
        hits=[hit_of(tenant, collection, hit, scored=scored) for hit in hits],
        limit=body.limit,
        offset=body.offset,
        total=total,
        # The first hits decide: a later page may have none that matches.
        nothing_matches=not any(marks) if marks and body.offset == 0 else None,
        threshold=collection.threshold if marks else None,
        took_ms=(time.perf_counter() - started) * 1_000,
    )


@router.get("/collections")
def collections(tenant: CurrentTenant) -> CollectionList:
    """List the collections of the key; the first one is the default."""
    return CollectionList(
        collections=[
            CollectionDescription(
                name=name,
                count=served.index.count(),
                embed_dim=served.index.info.embed_dim,
                model=served.index.info.model,
                fingerprint=served.index.info.fingerprint,
                index_type=served.index.index_type.type,
                full_text=served.index.supports_full_text,
            )
            for name in tenant.names
            for served in [tenant.collection(name)]
        ],
        writable=tenant.writable,
    )
