"""Routes `/v1/search` and `/v1/collections`."""

import time

from fastapi import APIRouter

from coca.core.errors import SearchError
from coca.search.records import CollectionInfo
from coca.server.collections.served_collection import ServedCollection
from coca.server.requests.answers import hit_of
from coca.server.requests.queries import search as find
from coca.server.routes.tenants import CurrentTenant, KeyedRoute
from coca.server.schemas.collections import (
    CalibrationSummary,
    CollectionDescription,
    CollectionList,
    Encoding,
)
from coca.server.schemas.search import SearchRequest, SearchResponse

router = APIRouter(prefix="/v1", tags=["search"], route_class=KeyedRoute)


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
        threshold=found.threshold if marks and (found := collection.calibration) else None,
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
                encoding=_encoding(served.index.info),
                calibration=_calibration(served),
            )
            for name in tenant.names
            for served in [tenant.collection(name)]
        ],
        writable=tenant.writable,
    )


def _encoding(info: CollectionInfo) -> Encoding:
    encoding = info.encoding
    return Encoding(
        dimensions=encoding.dimensions or info.embed_dim,
        projection=encoding.projection,
        precision=encoding.precision,
    )


def _calibration(served: ServedCollection) -> CalibrationSummary | None:
    try:
        found = served.calibration
    except SearchError:
        # One of another model is an error of searches, and not of this list.
        return None
    if found is None:
        return None
    return CalibrationSummary(
        threshold=found.threshold,
        false_alarms=found.false_alarms,
        found=found.found,
        records=found.records,
    )
