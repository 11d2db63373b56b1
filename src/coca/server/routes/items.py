"""Routes `/v1/items`: read, add, change and delete items, and read their images."""

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Path, Query, Response
from starlette.convertors import Convertor, register_url_convertor

from coca.server.errors import ServiceError
from coca.server.images.data_uris import media_type_of
from coca.server.images.thumbnails import SIDES
from coca.server.requests.answers import item_of
from coca.server.requests.changes import add_item, change_items, delete_items
from coca.server.routes.tenants import CurrentTenant, KeyedRoute, Writer
from coca.server.schemas.errors import WRITE_ERRORS
from coca.server.schemas.items import Affected, Item, ItemChange, ItemChanges, ItemIds, NewItem
from coca.server.schemas.shared import CollectionName


class _ItemId(Convertor[str]):
    """Part of a path that is an id, which may hold slashes, and not another route below items."""

    regex = "(?!delete$|.*/(?:thumbnail|original)$).+"

    def convert(self, value: str) -> str:
        """Return the id."""
        return value

    def to_string(self, value: str) -> str:
        """Return the part of the path."""
        return value


register_url_convertor("item", _ItemId())
router = APIRouter(prefix="/v1/items", tags=["items"], route_class=KeyedRoute)

Id: TypeAlias = Annotated[str, Path(min_length=1, max_length=64)]
Named: TypeAlias = Annotated[CollectionName, Query()]

_FRESH = {"Cache-Control": "private, max-age=86400"}


@router.get("/{id:path}/thumbnail", responses={200: {"content": {"image/jpeg": {}}}})
def thumbnail(
    id: Id,
    tenant: CurrentTenant,
    collection: Named = None,
    side: Annotated[int, Query(ge=16, le=SIDES[-1])] = 256,
) -> Response:
    """Return a small JPEG; `side` is rounded up to 128, 256, 512 or 1024 pixels."""
    served = tenant.collection(collection)
    side = next(one for one in SIDES if one >= side)
    key, thumbnails = served.thumbnail_key(id), tenant.service.thumbnails
    # The cache comes first: reading a record takes longer than reading the file.
    small = thumbnails.cached(key, side)
    if small is None or served.catalog.lacks(id):
        try:
            record = served.record(id)
        except ServiceError:
            # Another client deleted the item.
            thumbnails.remove(key)
            raise
        small = small or thumbnails.make(key, side, tenant.service.original(record))
    return Response(small, media_type="image/jpeg", headers=_FRESH)


@router.get("/{id:path}/original", responses={200: {"content": {"image/*": {}}}})
def original(id: Id, tenant: CurrentTenant, collection: Named = None) -> Response:
    """Return the encoded image as it is stored."""
    data = tenant.service.original(tenant.collection(collection).record(id))
    return Response(data, media_type=media_type_of(data), headers=_FRESH)


@router.get("/{id:item}")
def item(id: Id, tenant: CurrentTenant, collection: Named = None) -> Item:
    """Return an item."""
    served = tenant.collection(collection)
    return item_of(tenant, served, served.record(id))


@router.post("", status_code=201, responses={200: {"model": Item}, **WRITE_ERRORS})
def add(body: NewItem, tenant: Writer, response: Response) -> Item:
    """Add an image; status 200 and the unchanged item if the collection has it already."""
    record, new = add_item(tenant, body)
    response.status_code = 201 if new else 200
    return item_of(tenant, tenant.collection(body.collection), record)


@router.put("/{id:item}", status_code=201, responses={200: {"model": Item}, **WRITE_ERRORS})
def put(id: Id, body: NewItem, tenant: Writer, response: Response) -> Item:
    """Add an image under its id, the first 32 hex digits of the SHA-256 of its bytes."""
    record, new = add_item(tenant, body, id=id)
    response.status_code = 201 if new else 200
    return item_of(tenant, tenant.collection(body.collection), record)


@router.patch("", responses=WRITE_ERRORS)
def change_many(body: ItemChanges, tenant: Writer) -> Affected:
    """Apply the same changes to several items."""
    changed, missing = change_items(tenant, tenant.collection(body.collection), body.ids, body)
    return Affected(ids=[record.id for record in changed], missing=missing)


@router.patch("/{id:item}", responses=WRITE_ERRORS)
def change(id: Id, body: ItemChange, tenant: Writer, collection: Named = None) -> Item:
    """Change caption, tags, album, time or metadata of an item."""
    served = tenant.collection(collection)
    served.record(id)
    (record,), _ = change_items(tenant, served, [id], body)
    return item_of(tenant, served, record)


@router.post("/delete", responses=WRITE_ERRORS)
def delete_many(body: ItemIds, tenant: Writer) -> Affected:
    """Delete several items; uploaded images are deleted as well, files of folders are not."""
    deleted, missing = delete_items(tenant, tenant.collection(body.collection), body.ids)
    return Affected(ids=deleted, missing=missing)


@router.delete("/{id:item}", responses=WRITE_ERRORS)
def delete(id: Id, tenant: Writer, collection: Named = None) -> Affected:
    """Delete an item."""
    served = tenant.collection(collection)
    served.record(id)
    deleted, missing = delete_items(tenant, served, [id])
    return Affected(ids=deleted, missing=missing)
