"""Routes `/v1/searches`, with their bodies: saved searches of a collection."""

from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field

from coca.search.mining.saved_searches import NAME, SavedSearch, SavedSearches
from coca.search.query.query_terms import Term
from coca.server.bodies import MAX_EXAMPLES, MAX_TEXT, Body, Example, Scope, Text, given
from coca.server.errors import WRITE_ERRORS
from coca.server.routes.items import Named
from coca.server.routes.search import filter_of
from coca.server.routes.tenants import CurrentTenant, KeyedRoute, Writer

_POSITIVE: Any = {"required": ["positive"], "properties": {"positive": {"minItems": 1}}}
Mark: TypeAlias = Annotated[Example, Field(json_schema_extra={"not": given("image")})]


class SearchToSave(Scope):
    """A query with its marks and filters."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [given("text"), _POSITIVE]})

    text: Text | None = None
    positive: Annotated[list[Mark], Field(fail_fast=True, max_length=MAX_EXAMPLES)] = []
    """Items that are right, and further texts; no images."""
    negative: Annotated[list[Mark], Field(fail_fast=True, max_length=MAX_EXAMPLES)] = []
    """Items and texts that are not meant."""
    link: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """Text of the client, such as the address of its page; it is returned as it is."""


class SavedSearchItem(Body):
    """A saved search."""

    name: str
    text: str
    filter: str
    link: str
    new: int
    """Number of its first 50 images that were not among them at the last look."""


class SavedSearchList(Body):
    """Saved searches, sorted by name."""

    collection: str
    searches: list[SavedSearchItem]


router = APIRouter(prefix="/v1/searches", tags=["search"], route_class=KeyedRoute)

Name: TypeAlias = Annotated[str, Path(min_length=1, max_length=64)]
NewName: TypeAlias = Annotated[Name, Path(json_schema_extra={"pattern": f"^{NAME.pattern}$"})]


@router.get("")
def searches(tenant: CurrentTenant, collection: Named = None) -> SavedSearchList:
    """List the saved searches, and search each again to count its new images."""
    served = tenant.collection(collection)
    saved = SavedSearches(served.engine)
    known = saved.read()
    tenant.charge(searches=len(known), texts=sum(search.texts for search in known.values()))
    items = [_item(name, search, saved.count_new(search)) for name, search in known.items()]
    return SavedSearchList(collection=served.name, searches=items)


@router.put("/{name}", responses=WRITE_ERRORS)
def save(name: NewName, body: SearchToSave, tenant: Writer) -> SavedSearchItem:
    """Save a search under a name, or look at it again: its first images of now are seen."""
    served = tenant.collection(body.collection)
    search = SavedSearch(
        text=body.text or "",
        positive=tuple(map(_mark, body.positive)),
        negative=tuple(map(_mark, body.negative)),
        filter=filter_of(tenant, body),
        link=body.link,
    )
    tenant.charge(texts=search.texts)
    tenant.count_bytes(len(name) + len(search.model_dump_json(exclude_defaults=True)))
    with served.writing():
        SavedSearches(served.engine).save(name, search)
    tenant.record("save search", served.name, name=name)
    return _item(name, search, 0)


@router.delete("/{name}", status_code=204, responses=WRITE_ERRORS)
def delete(name: Name, tenant: Writer, collection: Named = None) -> None:
    """Delete a saved search; a missing one is ignored."""
    served = tenant.collection(collection)
    SavedSearches(served.engine).delete(name)
    tenant.record("delete search", served.name, name=name)


def _mark(example: Example) -> str | Term:
    return example.id or Term(text=example.text, image=example.image, weight=example.weight)


def _item(name: str, search: SavedSearch, new: int) -> SavedSearchItem:
    shown = search.model_dump(include={"text", "filter", "link"})
    return SavedSearchItem(name=name, new=new, **shown)
