"""Routes `/v1/recommend`, `/v1/duplicates` and `/v1/facets`, with their bodies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, ClassVar, Literal, TypeAlias

from fastapi import APIRouter
from pydantic import Field

from coca.core.files.local_files import size_in_etag
from coca.search.mining.duplicates import Kind, near_duplicates
from coca.search.mining.images import read_images
from coca.search.mining.recommend import recommend as find_recommended
from coca.search.records import METADATA
from coca.search.search_options import RecommendOptions
from coca.server.bodies import (
    MAX_EXAMPLES,
    MAX_LIMIT,
    Body,
    CollectionName,
    Example,
    ItemId,
    Scope,
    ServedOptions,
    Text,
    Value,
    given_options,
    with_options,
)
from coca.server.collections.catalog import CatalogEntry, first_of_groups
from coca.server.routes.items import NAME, Item, fields_of
from coca.server.routes.search import (
    SearchRequest,
    SearchResponse,
    examples,
    filter_of,
    hit_of,
    listed_entries,
    options_of,
    run_search,
)
from coca.server.routes.tenants import CurrentTenant, KeyedRoute

# Bodies of `/v1/recommend`, `/v1/duplicates` and `/v1/facets`.


@with_options(RecommendOptions, "diversity")
@with_options(ServedOptions, "limit", "on")
class RecommendRequest(Scope):
    """Examples of wanted and unwanted items."""

    max_bytes: ClassVar[int | None] = None

    positive: Annotated[list[Example], Field(fail_fast=True, min_length=1, max_length=MAX_EXAMPLES)]
    negative: Annotated[list[Example], Field(fail_fast=True, max_length=MAX_EXAMPLES)] = []
    seen: Annotated[list[ItemId], Field(fail_fast=True, max_length=10_000)] = []
    """Ids to exclude."""


class DuplicatesRequest(Body):
    """Near-duplicates of a collection."""

    collection: CollectionName = None
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 100
    """Maximum number of groups of each kind."""


class Duplicate(Item):
    """An item that has near-duplicates."""

    bytes: int | None = None
    """Size of its file; null if unknown."""


class DuplicateGroup(Body):
    """Items that are near-duplicates of each other, best first: by pixels, bytes, and metadata."""

    kind: Kind
    """`same image`: copies in another size, compression or grey. `part or edit`: crops, mirrored
    images and images with text, to look at."""
    items: list[Duplicate]


class DuplicatesResponse(Body):
    """Groups of near-duplicates: the same images first, the largest groups of each kind first."""

    collection: str
    groups: list[DuplicateGroup]
    total: int
    """Number of groups, of which the first `limit` of each kind are returned."""


FacetField: TypeAlias = Annotated[
    str, Field(max_length=255, pattern=r"^(tags|album|caption_source)$|^metadata\.")
]


class FacetsRequest(Scope):
    """Fields whose values are counted, among the items that the filters keep or a text finds."""

    text: Text | None = None
    """Count the likely ones of its first 1,000 hits; where none is, or where it is unknown, all
    items."""
    fields: Annotated[list[FacetField], Field(fail_fast=True, max_length=32)] | None = None
    """`tags`, `album`, `caption_source` or `metadata.KEY`; null: the fields with few values."""
    limit: Annotated[int, Field(ge=1, le=1_000)] = 20
    """Maximum number of values of a field."""
    group_by: Literal["path", "video"] = "path"
    """`video` counts the frames of a video once."""


class FacetValue(Body):
    """A value and the number of items that have it."""

    value: bool | int | float | str
    count: int


class Facet(Body):
    """Values of a field, most frequent first."""

    field: str
    values: list[FacetValue]
    others: int
    """Number of further values."""
    missing: int
    """Number of items without the field."""


class FacetsResponse(Body):
    """Counts of values."""

    collection: str
    total: int
    """Number of items that were counted."""
    complete: bool = True
    """Whether hardly any likely hit of `text` was left out."""
    facets: list[Facet]


# Facets: counts of the values of fields.


_COLUMNS = ("tags", "album", "caption_source")
_FEW = 50
"""Maximum number of values of a metadata field that is counted without being named."""


def count_facets(
    items: Sequence[CatalogEntry], fields: Sequence[str] | None, limit: int
) -> list[Facet]:
    """Count the values of fields."""
    counts: dict[str, Counter[Value]] = {}
    for (field, value), count in Counter(chain.from_iterable(it.values for it in items)).items():
        counts.setdefault(field, Counter())[value] = count
    # `dict` keeps each field of an item once.
    known = Counter(chain.from_iterable(dict(it.values) for it in items))
    wanted = dict.fromkeys((*_COLUMNS, *counts)) if fields is None else fields
    facets = [
        _facet(name, counts.get(name, Counter()), limit, missing=len(items) - known[name])
        for name in wanted
    ]
    if fields is not None:
        return facets
    # Nearly each upload has a name of its own.
    shown = [one for one in facets if one.field != f"{METADATA}.{NAME}"]
    return [one for one in shown if one.values and len(one.values) + one.others <= _FEW]


def _facet(field: str, counts: Counter[Value], limit: int, *, missing: int) -> Facet:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return Facet(
        field=field,
        values=[FacetValue(value=value, count=count) for value, count in ordered[:limit]],
        others=max(0, len(ordered) - limit),
        missing=missing,
    )


# Routes `/v1/recommend`, `/v1/duplicates` and `/v1/facets`.


router = APIRouter(prefix="/v1", tags=["mining"], route_class=KeyedRoute)


@router.post("/recommend")
def recommend(body: RecommendRequest, tenant: CurrentTenant) -> SearchResponse:
    """Recommend items by positive and negative examples, which are left out of the hits."""
    collection = tenant.collection(body.collection)
    options = RecommendOptions(**given_options(body, RecommendOptions))
    given = (*body.positive, *body.negative)
    items = [one.id for one in given if one.id is not None]
    tenant.charge(
        texts=sum(one.text is not None for one in given),
        images=sum(one.image is not None for one in given),
    )
    hits = find_recommended(
        collection.engine,
        examples(tenant, body.positive, body.collection, options.on),
        negative=examples(tenant, body.negative, body.collection, options.on),
        seen={*body.seen, *items},
        **dict(options.replace(filter=filter_of(tenant, body))),
    )
    return SearchResponse(
        collection=collection.name,
        hits=[hit_of(tenant, collection, hit) for hit in hits],
        limit=options.limit,
        offset=0,
        total=None,
    )


@router.post("/duplicates")
def duplicates(body: DuplicatesRequest, tenant: CurrentTenant) -> DuplicatesResponse:
    """Find groups of near-duplicates by comparing all pairs; identical files are one image."""
    served = tenant.collection(body.collection)
    images = read_images(served.collection)
    tenant.charge(pairs=len(images.ids) ** 2 // 2)
    found = near_duplicates(images, ranks=images.ranks, keep=0)
    kinds: Mapping[Kind, list[list[int]]] = {
        "same image": found.groups,
        "part or edit": found.related,
    }
    shown = [(kind, rows) for kind, groups in kinds.items() for rows in groups[: body.limit]]
    records = served.collection.get(images.ids[row] for _, rows in shown for row in rows)
    groups = [
        DuplicateGroup(
            kind=kind,
            items=[
                Duplicate(
                    **fields_of(tenant, served, records[id]),
                    bytes=size_in_etag(records[id].origin.etag),
                )
                for id in (images.ids[row] for row in rows)
                if id in records
            ],
        )
        for kind, rows in shown
    ]
    total = len(found.groups) + len(found.related)
    return DuplicatesResponse(collection=served.name, groups=groups, total=total)


@router.post("/facets")
def facets(body: FacetsRequest, tenant: CurrentTenant) -> FacetsResponse:
    """Count the values of fields."""
    items, is_complete = listed_entries(tenant, body), True
    likely = set[str]()
    if body.text is not None:
        scope = {name: getattr(body, name) for name in Scope.model_fields}
        groups = {"group_by": "video"} if body.group_by == "video" else {}
        asked = {"text": body.text, "sections": True, "limit": MAX_LIMIT, **groups}
        query = SearchRequest.model_validate(scope | asked)
        found = run_search(tenant, query, options_of(query))
        if likely := {hit.id for hit in found.hits if hit.likely and found.sections}:
            items = [one for one in items if one.id in likely]
            is_complete = found.is_complete
    if body.group_by == "video" and not likely:
        items = first_of_groups(items, "video")
    return FacetsResponse(
        collection=tenant.collection(body.collection).name,
        total=len(items),
        complete=is_complete,
        facets=count_facets(items, body.fields, body.limit),
    )
