"""Queries of requests: terms and filters of a search engine from bodies."""

from collections.abc import Iterable

from coca.core.errors import ArgumentError
from coca.search.filters import all_of, has_all_tags, has_any_tag, names_in, where
from coca.search.query.calibration.match_score import SCORED_HITS
from coca.search.query.hybrid.fusion import Fusion
from coca.search.query.query_terms import Term
from coca.search.records import ORIGIN, PATH, Hit
from coca.server.schemas.search import SearchRequest
from coca.server.schemas.shared import MAX_RANKED, Condition, Example, ImageReference, Scope
from coca.server.service import Tenant

_HIDDEN = frozenset({PATH, ORIGIN})
"""Columns with paths of the machine of the service."""


def filter_of(tenant: Tenant, scope: Scope, *more: str) -> str:
    """Combine the filter and the conditions of a request into one expression.

    Raises:
        ArgumentError: A condition is invalid, the filter has an unclosed quote, or one compares
            the paths of files, which the service does not report.
    """
    if not tenant.service.settings.show_paths:
        compared = names_in(scope.filter) | {one.field for one in scope.where}
        if hidden := sorted(compared & _HIDDEN):
            raise ArgumentError(
                f"{hidden[0]} is not a field of this service: it does not report paths of files; "
                "serve them with --show-paths"
            )
    parts = [
        *([scope.filter] if scope.filter.strip() else []),
        *(_condition(one) for one in scope.where),
        *more,
    ]
    # Also a single filter is checked for its quotes and parentheses.
    return str(all_of(*parts)) if parts else ""


def search(tenant: Tenant, request: SearchRequest) -> tuple[list[Hit], int | None, bool]:
    """Find the hits of a request.

    Returns:
        The hits, the number of items if it was counted, and whether the hits have scores.

    Raises:
        ServiceError: There is no such collection or item (status 404).
        SearchError: The query or the filter is invalid.
        DataError: An image cannot be decoded.
    """
    collection = tenant.collection(request.collection)
    terms = terms_of(tenant, request)
    if not terms:
        items, total = collection.catalog.page(
            filter_of(tenant, request), offset=request.offset, limit=request.limit
        )
        return items, total, False
    if all(term.weight < 0 for term in terms):
        raise ArgumentError("a query must have at least one positive term, got negative ones only")
    if request.offset + request.limit > MAX_RANKED:
        raise ArgumentError(
            f"offset and limit of a query must add up to at most {MAX_RANKED:,}, got "
            f"{request.offset:,} and {request.limit:,}"
        )
    images = request.rerank + sum(term.image is not None for term in terms)
    tenant.charge(texts=sum(term.text is not None for term in terms), images=images)
    itself = [] if request.id is None or request.region else [where("id", "!=", request.id)]
    hits = collection.engine.search(
        terms=terms,
        k=request.limit,
        offset=request.offset,
        filter=filter_of(tenant, request, *itself),
        min_score=request.min_score,
        on=request.on,
        group_by=request.group_by,
        hybrid=_fusion(request),
        rerank=request.rerank,
        # Further pages have no hit among the first ones, which alone are marked.
        match=request.offset < SCORED_HITS,
    )
    return hits, None, True


def _fusion(request: SearchRequest) -> Fusion | bool | None:
    weight = request.text_weight
    if request.hybrid is False and weight is not None:
        raise ArgumentError(f"text_weight is of hybrid searches, got {weight:g} with hybrid false")
    if not request.hybrid and weight is None:
        return request.hybrid
    return Fusion(text_weight=Fusion.text_weight if weight is None else weight)


def terms_of(tenant: Tenant, request: SearchRequest) -> list[Term]:
    """Build the terms of a query; none for a request that lists all items."""
    name = request.collection
    return [
        *([Term(text=request.text, weight=request.weight)] if request.text is not None else []),
        *([_image_term(tenant, request, name, 1.0)] if _has_image(request) else []),
        *examples(tenant, request.positive, name, sign=1),
        *examples(tenant, request.negative, name, sign=-1),
    ]


def examples(
    tenant: Tenant, given: Iterable[Example], collection: str | None, *, sign: int
) -> list[Term]:
    """Build a term for each example.

    Args:
        tenant: Who asks.
        given: The examples.
        collection: Collection of items among them.
        sign: 1 for positive examples, -1 for negative ones.
    """
    return [
        Term(text=example.text, weight=sign * example.weight)
        if example.text is not None
        else _image_term(tenant, example, collection, sign * example.weight)
        for example in given
    ]


def _image_term(
    tenant: Tenant, reference: ImageReference, collection: str | None, weight: float
) -> Term:
    if reference.id is not None and reference.region is None:
        record = tenant.collection(collection).record(reference.id)
        return Term(vector=record.vector, weight=weight)
    return Term(image=tenant.image(reference, collection), weight=weight)


def _has_image(reference: ImageReference) -> bool:
    return reference.image is not None or reference.id is not None


def _condition(one: Condition) -> str:
    if one.field == "tags" or one.operator in ("has all", "has any"):
        values = one.value if isinstance(one.value, list) else [one.value]
        tags = [tag for tag in values if isinstance(tag, str)]
        if one.field != "tags" or one.operator not in ("has all", "has any") or not tags:
            raise ArgumentError(
                'tags take the operators "has all" and "has any" with a list of texts, got '
                f"{one.field} {one.operator} {one.value!r}"
            )
        return has_all_tags(tags) if one.operator == "has all" else has_any_tag(tags)
    return where(one.field, one.operator, one.value)
