"""Routes `/v1/items`: read items and their images."""

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Path, Query, Response

from coca.server.answers import item_of
from coca.server.decoding import format_of
from coca.server.routes.tenants import CurrentTenant
from coca.server.schemas.items import Item
from coca.server.schemas.shared import CollectionName
from coca.server.thumbnails import SIDES

router = APIRouter(prefix="/v1/items", tags=["items"])

Id: TypeAlias = Annotated[str, Path(min_length=1, max_length=64)]
Named: TypeAlias = Annotated[CollectionName, Query()]

_FRESH = {"Cache-Control": "private, max-age=86400"}
_MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
    "TIFF": "image/tiff",
}


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
    record = served.record(id)
    key = f"{served.index.info.uri}/{served.index.own_name}/{id}"
    thumbnails = tenant.service.thumbnails
    small = thumbnails.cached(key, side)
    if small is None:
        small = thumbnails.make(key, side, tenant.service.original(record))
    return Response(small, media_type="image/jpeg", headers=_FRESH)


@router.get("/{id:path}/original", responses={200: {"content": {"image/*": {}}}})
def original(id: Id, tenant: CurrentTenant, collection: Named = None) -> Response:
    """Return the encoded image as it is stored."""
    data = tenant.service.original(tenant.collection(collection).record(id))
    kind = _MEDIA_TYPES.get(format_of(data), "application/octet-stream")
    return Response(data, media_type=kind, headers=_FRESH)


@router.get("/{id:path}")
def item(id: Id, tenant: CurrentTenant, collection: Named = None) -> Item:
    """Return an item."""
    served = tenant.collection(collection)
    return item_of(tenant, served, served.record(id))
