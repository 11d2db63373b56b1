"""Routes `/v1/recommend`, `/v1/duplicates` and `/v1/facets`."""

from fastapi import APIRouter

from coca.search.mining.duplicates import near_duplicates
from coca.search.mining.recommend import recommend as find_recommended
from coca.search.query.in_memory import InMemoryIndex
from coca.search.query.query_terms import Term
from coca.server.requests.answers import hit_of, item_of
from coca.server.requests.facets import count_facets, histogram
from coca.server.requests.queries import examples, filter_of
from coca.server.routes.tenants import CurrentTenant, KeyedRoute
from coca.server.schemas.mining import (
    DuplicateGroup,
    DuplicatesRequest,
    DuplicatesResponse,
    FacetsRequest,
    FacetsResponse,
    RecommendRequest,
)
from coca.server.schemas.search import SearchResponse
from coca.server.schemas.shared import Example
from coca.server.service import Tenant

router = APIRouter(prefix="/v1", tags=["mining"], route_class=KeyedRoute)


@router.post("/recommend")
def recommend(body: RecommendRequest, tenant: CurrentTenant) -> SearchResponse:
    """Recommend items by positive and negative examples, which are left out of the hits."""
    collection = tenant.collection(body.collection)
    hits = find_recommended(
        collection.engine,
        _examples(tenant, body.positive, body.collection),
        negative=_examples(tenant, body.negative, body.collection),
        k=body.limit,
        filter=filter_of(tenant, body),
        seen=body.seen,
        diversity=body.diversity,
        on=body.on,
    )
    return SearchResponse(
        collection=collection.name,
        hits=[hit_of(tenant, collection, hit) for hit in hits],
        limit=body.limit,
        offset=0,
        total=None,
    )


@router.post("/duplicates")
def duplicates(body: DuplicatesRequest, tenant: CurrentTenant) -> DuplicatesResponse:
    """Find groups of near-duplicates, by exact comparison of all pairs."""
    collection = tenant.collection(body.collection)
    ids, vectors = InMemoryIndex(collection.index).vectors()
    found = near_duplicates(vectors, min_similarity=body.min_similarity)
    groups = []
    for rows in found.groups[: body.limit]:
        hits = collection.index.hits(dict.fromkeys((ids[row] for row in rows), 1.0))
        groups.append(DuplicateGroup(items=[item_of(tenant, collection, hit) for hit in hits]))
    return DuplicatesResponse(collection=collection.name, groups=groups, total=len(found.groups))


@router.post("/facets")
def facets(body: FacetsRequest, tenant: CurrentTenant) -> FacetsResponse:
    """Count the values of fields, and the items by time of capture."""
    collection = tenant.collection(body.collection)
    items = collection.catalog.entries(filter_of(tenant, body))
    return FacetsResponse(
        collection=collection.name,
        total=len(items),
        facets=count_facets(items, body.fields, body.limit),
        histogram=histogram(items, body.histogram),
    )


def _examples(tenant: Tenant, given: list[Example], collection: str | None) -> list[str | Term]:
    """Build examples; items stay ids, so that they are left out of the hits."""
    found: list[str | Term] = []
    for one in given:
        if one.id is not None and one.region is None and one.weight == 1:
            found.append(tenant.collection(collection).record(one.id).id)
        else:
            found += examples(tenant, [one], collection, sign=1)
    return found
