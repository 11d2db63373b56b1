"""Routes `/v1/search`, `/v1/explain` and `/v1/collections`, with their bodies."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Annotated, Literal, TypeAlias

from fastapi import APIRouter
from pydantic import Field

from coca.core.errors import ArgumentError
from coca.predict.predictor import Predictor
from coca.search.filter_language import columns_in, parse
from coca.search.filters import all_of, any_of, has_all_tags, has_any_tag, where
from coca.search.mining.recommend import others_than, vector_on
from coca.search.photo_filter import find_period, parse_period
from coca.search.query.explanation import Explanation
from coca.search.query.query_terms import Term, typed_terms, weigh_examples
from coca.search.query.sections import in_sections
from coca.search.query.videos import frames_of
from coca.search.records import ID, METADATA, PATH
from coca.search.records import Hit as FoundHit
from coca.search.search_options import PhotoFilter, QueryOptions, Ranking, Side
from coca.server.bodies import (
    MAX_EXAMPLES,
    MAX_RANKED,
    Body,
    Condition,
    Example,
    ImageReference,
    ItemId,
    Scope,
    ServedOptions,
    Text,
    given_options,
    with_options,
)
from coca.server.collections.catalog import CatalogEntry, count_days, first_of_groups
from coca.server.collections.served_collection import ServedCollection
from coca.server.routes.items import Item, fields_of
from coca.server.routes.tenants import CurrentTenant, KeyedRoute, Tenant

# Bodies of `/v1/collections`.


class CollectionDescription(Body):
    """A collection that the key may use."""

    name: str
    count: int
    embed_dim: int
    model: str
    fingerprint: str
    store: str
    """Name and version of the database."""


Capability: TypeAlias = Literal["caption", "answer"]
"""Operation that not every model has."""


def capabilities_of(predictor: Predictor) -> list[Capability]:
    """List what a model does besides search."""
    known: dict[Capability, bool] = {
        "caption": predictor.has_decoder,
        "answer": predictor.answers_questions,
    }
    return [name for name, there in known.items() if there]


class CollectionList(Body):
    """Collections that the key may use; the first one is the default."""

    collections: list[CollectionDescription]
    writable: bool
    """Whether the key may add, change and delete items."""
    capabilities: list[Capability]
    """What the model of the collections does besides search: `caption` (captions and reranking),
    `answer` (questions, by a head)."""


# Bodies of `/v1/search`.


@with_options(
    Ranking,
    *("image_weight", "caption_weight", "words_weight", "text_weight", "captions"),
    optional=True,
)
@with_options(
    ServedOptions,
    *("limit", "offset", "min_score", "on", "group_by", "hybrid", "rerank", "likely", "sort"),
)
class SearchRequest(Scope, ImageReference):
    """A query by text, image, item or examples; without any, all items, newest first.

    The query is the mean of `text`, `image` and `positive` less a quarter of that of `negative`,
    whose items are left out. A query finds each image once; a list without a query has all items,
    copies included.
    """

    sections: bool = False
    """Count the items of a list without a query by day. Of a query, order the likely ones of the
    first 1,000 hits by reason, count them, and put the other hits after them."""
    hidden: bool = False
    """List the hidden items instead of the others; without a query only."""

    text: Text | None = None
    weight: Annotated[float, Field(ge=1e-6, le=10, description="Weight of `text`.")] = 1.0
    positive: Annotated[list[Example], Field(fail_fast=True, max_length=MAX_EXAMPLES)] = []
    negative: Annotated[list[Example], Field(fail_fast=True, max_length=MAX_EXAMPLES)] = []


class Hit(Item):
    """An item found by a query."""

    score: float | None
    """Cosine of query and image, or of query and caption; null where nothing was compared."""
    copies: int | None
    """Number of items with this image that the filters keep; null in a list without a query."""
    caption_score: float | None = None
    """Cosine of query and caption, where captions count for the ranking; null where none does."""
    bm25: float | None = None
    """BM25 of the query's words in captions, tags and names; null where the item has none."""
    fused_score: float | None = None
    """Sort key where captions count for the ranking: the sum of `parts`."""
    parts: dict[str, float] | None = None
    """What `image`, `caption`, `words` and the `text` inside the image give to `fused_score`."""
    reason: str = ""
    """Why a text finds the item: a label such as `tag: Christmas`, `caption`, `text in image`,
    `file name`, or `looks like`."""
    likely: bool | None = None
    """Whether the item probably shows the query, or has all its words; null where it is unknown."""
    rank_score: float | None = None
    """Sort key of reranked hits and of recommendations."""
    log_likelihood: float | None = None
    """log p(text | image) in nats, of reranked hits."""


class SectionCount(Body):
    """Number of items of a day, or of likely hits with the same reasons."""

    day: str | None = None
    """`YYYY-MM-DD`; empty for items of unknown time, null for hits of a query."""
    reasons: list[str] = []
    count: int


class FoundPeriod(Body):
    """A date inside the text of a query, which does not filter."""

    text: str
    first: date
    last: date


class SearchResponse(Body):
    """Hits, best first."""

    collection: str
    hits: list[Hit]
    limit: int
    offset: int
    total: int | None
    """Number of items of a list without a query, or of its groups; null with a query."""
    sections: list[SectionCount] | None = None
    """Items by day, newest first, or the likely ones of the first hits by reason, in the order of
    the hits; null if not asked for, or where it is unknown which hits are likely."""
    sections_complete: bool = True
    """Whether hardly any likely hit follows the sections."""
    without: list[str] = []
    """What `text` does not want: after "-", "without", "no" or "not", in English and German."""
    period: FoundPeriod | None = None
    """A date inside `text`, such as "summer 2019", with its first and last day."""
    did_you_mean: str | None = None
    """`text` without typing errors, by the words of the collection; null where it has none."""
    took_ms: float = 0.0
    """Time of the service for this request, in milliseconds."""


class ExplainRequest(SearchRequest):
    """An item to explain, and the query as in `/v1/search`."""

    item: ItemId


# Queries of requests: terms and filters of a search engine from bodies.


_OF_QUERIES = ("min_score", "rerank", "on", "hybrid", "likely", "sort")
"""Options that compare items with a query."""


def listed_entries(tenant: Tenant, scope: Scope, *, hidden: bool = False) -> Sequence[CatalogEntry]:
    """List the items that a request covers, newest first."""
    catalog = tenant.collection(scope.collection).catalog
    return catalog.entries(filter_of(tenant, scope), hidden=hidden)


def filter_of(tenant: Tenant, scope: Scope, *more: str) -> str:
    """Combine the filter and the conditions of a request into one expression."""
    compared = columns_in(parse(scope.filter)) | {one.field for one in scope.where}
    if PATH in compared and not tenant.service.settings.show_paths:
        raise ArgumentError(
            f"{PATH} is not a field of this service: it does not report paths of files; serve them "
            "with --show-paths"
        )
    parts = [
        *([scope.filter] if scope.filter.strip() else []),
        *(_condition(one) for one in scope.where),
        *PhotoFilter(**given_options(scope, PhotoFilter)).conditions(),
        *([] if scope.video is None else [_of_video(tenant, scope)]),
        *more,
    ]
    return all_of(*parts) if parts else ""


def options_of(request: SearchRequest) -> ServedOptions:
    """Build the options of a request."""
    ranking = given_options(request, Ranking)
    return ServedOptions(
        **given_options(request, ServedOptions),
        ranking=Ranking(**ranking) if ranking else None,
    )


@dataclass(frozen=True)
class Found:
    """Hits of a request, their sections, and of a list without a query their number."""

    hits: Sequence[FoundHit]
    total: int | None = None
    sections: list[SectionCount] | None = None
    is_complete: bool = True


def run_search(tenant: Tenant, request: SearchRequest, options: ServedOptions) -> Found:
    """Find the hits of a request."""
    collection = tenant.collection(request.collection)
    if not (terms := terms_of(tenant, request, options.on)):
        _check_list(request, options)
        entries = listed_entries(tenant, request, hidden=request.hidden)
        if options.group_by in ("album", "video"):
            entries = first_of_groups(entries, options.group_by)
        page = entries[options.offset : options.offset + options.limit]
        days = None
        if request.sections:
            days = [SectionCount(day=day, count=count) for day, count in count_days(entries)]
        return Found(collection.catalog.hits(page), total=len(entries), sections=days)
    query = _checked_query(tenant, request, options, terms)
    if not request.sections:
        return Found(collection.engine.search_terms(terms, query))

    def find(count: int) -> list[FoundHit]:
        first = QueryOptions(**dict(query)).replace(offset=0, limit=count)
        return collection.engine.search_terms(terms, first)

    end = query.offset + query.limit
    divided = in_sections(find, end)
    hits = divided.hits[query.offset : end]
    if divided.sections is None:
        return Found(hits)
    counts = [SectionCount(reasons=one.reasons, count=len(one.hits)) for one in divided.sections]
    return Found(hits, sections=counts, is_complete=divided.is_complete)


def _checked_query(
    tenant: Tenant, request: SearchRequest, options: ServedOptions, terms: Sequence[Term]
) -> QueryOptions:
    """Check and charge a query, and return its options with the filter of the request."""
    if request.hidden:
        raise ArgumentError("hidden lists the hidden items: it takes no query")
    if all(term.weight < 0 for term in terms):
        raise ArgumentError("a query must have at least one positive term, got negative ones only")
    if options.offset + options.limit > MAX_RANKED:
        raise ArgumentError(
            f"offset and limit of a query must add up to at most {MAX_RANKED:,}, got "
            f"{options.offset:,} and {options.limit:,}"
        )
    if request.sections and options.rerank:
        raise ArgumentError("sections order hits by reason, and rerank by the model: leave one out")
    images = options.rerank + sum(term.image is not None for term in terms)
    tenant.charge(texts=sum(term.text is not None for term in terms), images=images)
    # An unwanted item is not found again, nor is the item whose neighbours are searched.
    record = tenant.collection(request.collection).record
    left_out = [request.id, *(example.id for example in request.negative)]
    others = [others_than(record(id)) for id in left_out if id is not None]
    return options.replace(filter=filter_of(tenant, request, *others))


def _check_list(request: SearchRequest, options: ServedOptions) -> None:
    """Check that a request without a query has no options of queries."""
    default = ServedOptions()
    given = [name for name in _OF_QUERIES if getattr(options, name) != getattr(default, name)]
    if given := [*given, *given_options(request, Ranking)]:
        raise ArgumentError(
            f"{given[0]} compares items with a query, and a request without text, image, id, "
            f"positive and negative lists items: add a query, or leave {given[0]} out"
        )


def terms_of(tenant: Tenant, request: SearchRequest, on: Side) -> list[Term]:
    """Build the terms of a query; none for a request that lists all items."""
    positive = [] if request.text is None else typed_terms(request.text, request.weight)
    if request.image or request.id:
        image = Example(image=request.image, id=request.id)
        positive += examples(tenant, [image], request.collection)
    positive += examples(tenant, request.positive, request.collection, on)
    return weigh_examples(positive, examples(tenant, request.negative, request.collection, on))


def examples(
    tenant: Tenant, given: Iterable[Example], collection: str | None, on: Side = "image"
) -> list[Term]:
    """Build a term for each example: of an item its vector on the side that is searched."""
    terms = []
    for one in given:
        if one.text is not None:
            terms.append(Term(text=one.text, weight=one.weight))
        elif one.id is not None:
            vector = vector_on(tenant.collection(collection).record(one.id), on)
            terms.append(Term(vector=vector, weight=one.weight))
        else:
            terms.append(Term(image=tenant.image(one, collection), weight=one.weight))
    return terms


def _of_video(tenant: Tenant, scope: Scope) -> str:
    served = tenant.collection(scope.collection)
    record = served.record(str(scope.video))
    frames = frames_of(served.collection, [record])
    return where(ID, "in", [record.id, *(frame.id for frame in frames)])


def _condition(one: Condition) -> str:
    values = one.value if isinstance(one.value, list) else [one.value]
    if one.field.startswith(f"{METADATA}.") and one.operator == "has any":
        # Facets count the values of lists and those that are in no list alike.
        texts = [value for value in values if isinstance(value, str)]
        return any_of(where(one.field, "in", values), has_any_tag(texts, one.field))
    if one.field == "tags" or one.operator in ("has all", "has any"):
        tags = [tag for tag in values if isinstance(tag, str)]
        if one.operator not in ("has all", "has any") or not 0 < len(tags) == len(values):
            raise ArgumentError(
                'tags take the operators "has all" and "has any" with a list of texts, got '
                f"{one.field} {one.operator} {one.value!r}"
            )
        keeps = has_all_tags if one.operator == "has all" else has_any_tag
        return keeps(tags, one.field)
    return where(one.field, one.operator, one.value)


# Routes.


router = APIRouter(prefix="/v1", tags=["search"], route_class=KeyedRoute)


@router.post("/search")
def search(body: SearchRequest, tenant: CurrentTenant) -> SearchResponse:
    """Search by text, image, item or examples; without a query, list items newest first."""
    started = time.perf_counter()
    collection = tenant.collection(body.collection)
    options = options_of(body)
    found = run_search(tenant, body, options)
    scored = found.total is None
    return SearchResponse(
        collection=collection.name,
        hits=[hit_of(tenant, collection, hit, scored=scored) for hit in found.hits],
        limit=options.limit,
        offset=options.offset,
        total=found.total,
        sections=found.sections,
        sections_complete=found.is_complete,
        without=[str(term.text) for term in typed_terms(body.text)[1:]] if body.text else [],
        period=_period(body.text or ""),
        did_you_mean=collection.engine.did_you_mean(body.text or ""),
        took_ms=(time.perf_counter() - started) * 1_000,
    )


@router.post("/explain")
def explain(body: ExplainRequest, tenant: CurrentTenant) -> Explanation:
    """Explain the place of an item among the hits of a query, or why it is not among them."""
    collection = tenant.collection(body.collection)
    id, options = collection.record(body.item).id, options_of(body)
    if not (terms := terms_of(tenant, body, options.on)):
        raise ArgumentError("an explanation needs a query: text, image, id, positive or negative")
    query = _checked_query(tenant, body, options, terms)
    tenant.charge(images=1, captions=1)
    found = collection.engine.explain(id, terms, **dict(query))
    return found if tenant.service.settings.show_paths else replace(found, path="")


def _period(text: str) -> FoundPeriod | None:
    if not (found := find_period(text)):
        return None
    first, last = parse_period(found)
    return FoundPeriod(text=found, first=first.date(), last=last.date())


@router.get("/collections")
def collections(tenant: CurrentTenant) -> CollectionList:
    """List the collections of the key; the first one is the default."""
    predictor = tenant.service.model.predictor
    served = [tenant.collection(name) for name in tenant.names]
    return CollectionList(
        collections=[
            CollectionDescription(
                name=info.collection,
                count=info.count,
                embed_dim=info.embed_dim,
                model=info.model,
                fingerprint=info.fingerprint,
                store=info.store,
            )
            for info in (one.collection.describe() for one in served)
        ],
        writable=tenant.writable,
        capabilities=capabilities_of(predictor),
    )


def hit_of(
    tenant: Tenant, collection: ServedCollection, hit: FoundHit, *, scored: bool = True
) -> Hit:
    """Build the body of a hit."""
    return Hit(
        **fields_of(tenant, collection, hit),
        score=hit.score if scored else None,
        copies=hit.copies if scored else None,
        caption_score=hit.caption_score,
        bm25=hit.bm25,
        fused_score=hit.fused_score,
        parts=None if hit.parts is None else dict(hit.parts),
        reason=hit.reason,
        likely=hit.likely,
        rank_score=hit.rank_score,
        log_likelihood=hit.log_likelihood,
    )
