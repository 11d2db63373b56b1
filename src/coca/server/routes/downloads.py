"""Routes for a browser, which sends no key with images and forms: session and ZIP archive."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.types import Receive, Scope, Send

from coca.search.records import SECONDS, Record
from coca.server.bodies import Body, CollectionName, ItemId
from coca.server.collections.served_collection import ServedCollection
from coca.server.errors import ServiceError
from coca.server.images.archive import ArchivedFile, stream_zip
from coca.server.routes.items import name_of
from coca.server.routes.tenants import (
    CurrentTenant,
    FileRoute,
    KeyedRoute,
    Tenant,
    session_cookie,
)

MAX_ARCHIVED = 10_000
"""Maximum number of items of an archive."""
_PAGE = 100
"""Number of records that are read at a time."""


class ArchiveRequest(Body):
    """Items whose originals are read; of frames, the video."""

    ids: Annotated[list[ItemId], Field(fail_fast=True, min_length=1, max_length=MAX_ARCHIVED)]
    collection: CollectionName = None


class _Archive(StreamingResponse):
    """ZIP archive, which takes a download of its key until its client has read all of it."""

    def __init__(self, tenant: Tenant, content: Iterator[bytes]) -> None:
        headers = {"Content-Disposition": 'attachment; filename="images.zip"'}
        super().__init__(content, media_type="application/zip", headers=headers)
        self._tenant = tenant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._tenant.service.places.download(self._tenant.key):
            await super().__call__(scope, receive, send)


router = APIRouter(prefix="/v1", tags=["items"], route_class=KeyedRoute)
files = APIRouter(route_class=FileRoute)


@router.post("/session", status_code=204, response_class=Response)
def open_session(request: Request, tenant: CurrentTenant) -> Response:
    """Set a cookie with which files are read without the key, for 12 hours.

    Browsers send no key with images, videos, links and forms. The cookie opens thumbnails,
    originals, videos and archives, and no other route. A service without keys sets none.
    """
    response = Response(status_code=204)
    if tenant.key is not None:
        response.set_cookie(
            session_cookie(request),
            tenant.service.keys.session(request.headers["authorization"]),
            # The folder of this address, which may be below a path of a proxy.
            path=None,
            # The page may be behind a proxy with TLS; browsers send its scheme.
            secure=request.headers.get("origin", "").startswith("https:"),
            httponly=True,
            samesite="strict",
        )
    return response


@files.post(
    "/archive",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}}},
)
def archive(body: ArchiveRequest, tenant: CurrentTenant) -> Response:
    """Stream a ZIP archive of originals and videos with their dates, also for a form of a page.

    Items that cannot be read are listed in its file `missing.txt`.
    """
    served = tenant.collection(body.collection)
    tenant.charge(images=len(body.ids))
    return _Archive(tenant, stream_zip(_files(tenant, served, list(dict.fromkeys(body.ids)))))


router.include_router(files)


def _files(tenant: Tenant, served: ServedCollection, ids: Sequence[str]) -> Iterator[ArchivedFile]:
    missing, videos = [], set()
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        records = served.collection.get(page)
        for id in page:
            if (record := records.get(id)) is None:
                missing.append(id)
                continue
            try:
                file = _file(tenant, record)
            except ServiceError:
                missing.append(name_of(tenant, record))
                continue
            if isinstance(file.content, bytes) or file.content not in videos:
                videos.add(file.content if isinstance(file.content, Path) else None)
                yield file
    if missing:
        yield ArchivedFile("missing.txt", "".join(f"{name}\n" for name in missing).encode())


def _file(tenant: Tenant, record: Record) -> ArchivedFile:
    """Read the original of an item; of a frame, its video."""
    if SECONDS not in record.metadata:
        data = tenant.service.original(record)
        return ArchivedFile(name_of(tenant, record), data, record.time)
    video = Path(tenant.service.video(record))
    return ArchivedFile(video.name, video, record.time)
