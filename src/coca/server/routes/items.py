"""Routes `/v1/items`: read, add, change and delete items, and read their images."""

import json
import time
from collections.abc import Collection as AnyOf
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, ClassVar, Literal, TypeAlias
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import FileResponse
from pydantic import Field
from starlette.convertors import Convertor, register_url_convertor

from coca.core.errors import CocaError, ConfigError
from coca.core.files.formats import media_type_of
from coca.core.files.local_files import file_etag
from coca.processing.text_reader import MAX_SIDE_PX
from coca.search.edits import edited, undone, update_embedded
from coca.search.filters import where
from coca.search.ingest.photo_metadata import PHOTO_FIELDS, Annotation, reads_of_files, with_place
from coca.search.query.videos import frames_of
from coca.search.records import (
    CAPTIONS,
    CONTENT,
    FAVOURITE,
    LOOKS_LIKE,
    OCR_TEXT,
    READ_TEXT,
    SECONDS,
    UTC_OFFSET,
    DateSource,
    Origin,
    Record,
    content_id,
    metadata_texts,
    record_id,
    storage_error,
)
from coca.search.records import Hit as FoundHit
from coca.server.bodies import MAX_LIMIT, Body, CollectionName, DataUri, ItemId, Metadata, Whole
from coca.server.collections.served_collection import ServedCollection
from coca.server.errors import CHANGED_ERRORS, WRITE_ERRORS, ServiceError
from coca.server.images.data_uris import read_data_uri
from coca.server.images.uploads import SIDES
from coca.server.routes.tenants import (
    CurrentTenant,
    FileRoute,
    KeyedRoute,
    Tenant,
    UncountedRoute,
    Writer,
)

NAME = "name"
"""Key of the metadata of an upload: the name of its file."""

# Bodies of `/v1/items`: read, add, change and delete items.

Edited: TypeAlias = Annotated[str, Field(pattern=r"^(caption|tags|time)$|^metadata\.")]


class Item(Body):
    """An item of a collection."""

    id: str
    name: str
    """Name of the file; of an upload, the name that it was sent with."""
    path: str | None = None
    """Path of the file on the machine of the service; null without `coca serve --show-paths`."""
    uploaded: bool
    """Whether the service stores the file, and deletes it with the item."""
    caption: str
    captions: list[str]
    """All captions; the first one is `caption`."""
    caption_source: Literal["given", "model", ""]
    unedited: dict[str, Any] = {}
    """Values before people edited them, by field: `caption`, `tags`, `time`, `metadata.KEY`."""
    tags: list[str]
    album: str
    width: int
    """In pixels; 0 if unknown."""
    height: int
    """In pixels; 0 if unknown."""
    time: int | None
    """Local date in seconds since 1970; null if unknown."""
    date_source: DateSource
    """Source of `time`: `taken` (capture), `file` (its modification), `added` (the upload)."""
    taken_at: str | None
    """Local time of capture in ISO 8601, with its zone where that is known; null if unknown."""
    metadata: Annotated[
        dict[str, Any],
        Field(description=f"All other fields. Photos have {', '.join(PHOTO_FIELDS)}."),
    ]
    hidden: bool
    """Whether searches, lists and counts leave the item out."""
    thumbnail: str
    """URL of a small JPEG."""
    color: str | None
    """Mean color as `#rrggbb`; null until a thumbnail of the image is made."""
    original: str
    """URL of the encoded image as it is stored."""
    video: str | None
    """URL of the video of a frame, from its moment on; null for other items."""


class NewItem(Body):
    """An image to add; one that the collection has already is not added again."""

    max_bytes: ClassVar[int | None] = None

    image: DataUri
    collection: CollectionName = None
    name: Annotated[str, Field(max_length=255)] = ""
    caption: Annotated[str, Field(max_length=65_535)] = ""
    tags: Annotated[list[str], Field(fail_fast=True, max_length=256)] = []
    album: Annotated[str, Field(max_length=4_096)] = ""
    time: Whole | None = None
    metadata: Metadata = {}
    generate_caption: bool = False
    """Generate a caption if none is given."""


class ItemChange(Body):
    """Changes of an item; absent fields stay as they are.

    Captions are embedded at once. Captions, tags, time and metadata win over later runs of `coca
    index`.
    """

    undo: Annotated[list[Edited], Field(fail_fast=True, max_length=256)] = []
    """Fields to restore, of those in `unedited`; before the other changes."""
    caption: Annotated[str, Field(max_length=65_535)] | None = None
    tags: Annotated[list[str], Field(fail_fast=True, max_length=256)] | None = None
    add_tags: Annotated[list[str], Field(fail_fast=True, max_length=256)] = []
    remove_tags: Annotated[list[str], Field(fail_fast=True, max_length=256)] = []
    time: Whole | None = None
    metadata: Metadata = {}
    """Keys to set, as a JSON merge patch: null removes a key."""
    hidden: bool | None = None
    """Hide the item from searches, lists and counts, or show it again; its file stays. This and the
    tag `favourite` are also changed in items that are copies of its image."""


class ItemChanges(ItemChange):
    """The same changes for several items of one collection."""

    ids: Annotated[list[ItemId], Field(fail_fast=True, min_length=1, max_length=MAX_LIMIT)]
    collection: CollectionName = None
    videos: bool = False
    """Also change all other frames of the videos of frames."""


class Affected(Body):
    """Ids of the items that were changed or deleted, copies included; missing ids are listed."""

    ids: list[str]
    missing: list[str]


# Response bodies from records and hits.


def item_of(tenant: Tenant, served: ServedCollection, record: Record | FoundHit) -> Item:
    """Build the body of an item."""
    return Item(**fields_of(tenant, served, record))


def fields_of(
    tenant: Tenant, served: ServedCollection, record: Record | FoundHit
) -> dict[str, Any]:
    """List what items and hits have in common, by the fields of their bodies."""
    url = f"/v1/items/{quote(record.id, safe='')}"
    # The image of a path may change, and clients keep what a URL returned.
    query = f"?collection={quote(served.name)}&content={quote(record.content)}"
    moment = record.path.rpartition("#")[2] if SECONDS in record.metadata else ""
    caption = record.shown_caption if isinstance(record, Record) else record.caption
    return {
        "id": record.id,
        "name": name_of(tenant, record),
        "path": record.path if tenant.service.settings.show_paths else None,
        "uploaded": tenant.service.uploads.contains(record.path),
        "caption": caption,
        "captions": _captions(caption, record.metadata),
        "caption_source": record.caption_source,
        "unedited": dict(record.unedited),
        "tags": list(record.tags),
        "album": record.album,
        "width": record.width,
        "height": record.height,
        "time": record.time or None,
        "date_source": record.date_source,
        "taken_at": _taken_at(record) if record.date_source == "taken" else None,
        "metadata": dict(record.metadata),
        "hidden": record.hidden,
        "thumbnail": f"{url}/thumbnail{query}",
        "color": tenant.service.thumbnails.color(served.thumbnail_key(record.id, record.content)),
        "original": f"{url}/original{query}",
        "video": f"{url}/video{query}#{moment}" if moment else None,
    }


def name_of(tenant: Tenant, record: Record | FoundHit) -> str:
    """Return the name of an item's file; of an upload, the name that it was sent with."""
    if NAME in record.metadata and tenant.service.uploads.contains(record.path):
        return str(record.metadata[NAME])
    return record.path.rstrip("/").rpartition("/")[2]


def _captions(caption: str, metadata: Mapping[str, Any]) -> list[str]:
    """List all captions: several given ones are in the metadata."""
    several = metadata_texts(metadata, CAPTIONS)
    return list(dict.fromkeys([*([caption] if caption else []), *several]))


def _taken_at(record: Record | FoundHit) -> str | None:
    offset = record.metadata.get(UTC_OFFSET)
    try:
        zone = timezone(timedelta(minutes=offset)) if isinstance(offset, int) else None
        return datetime.fromtimestamp(record.time, UTC).replace(tzinfo=zone).isoformat()
    except (OverflowError, OSError, ValueError):
        return None


# Add, change and delete items; an acknowledged write survives a killed process.


def add_item(tenant: Tenant, new: NewItem) -> tuple[Record, bool]:
    """Add an image to a collection; one that is there keeps its record, and is shown again.

    Returns:
        The record, and whether it is new.
    """
    service, served = tenant.service, tenant.collection(new.collection)
    data = read_data_uri(new.image)
    content = content_id(data)
    if (there := _item_of_image(tenant, served, content)) is not None:
        if there.hidden:
            (there, *_), _ = change_items(tenant, served, [there.id], ItemChange(hidden=False))
        return there, False
    _check(new.caption, new.metadata, new.tags, new.album, new.time or 0)
    tenant.charge(texts=1, images=1, captions=int(new.generate_caption))
    image = service.decoder.decode(data)
    given = Annotation(new.caption, new.metadata, tuple(new.tags), new.album, new.time or 0)
    annotation, read = with_place(given.over(image.annotation)), reads_of_files()
    if service.text_reader is not None:
        (text,) = service.text_reader([service.decoder.pixels(data, MAX_SIDE_PX)])
        annotation = annotation.over(Annotation(metadata={OCR_TEXT: text} if text else {}))
        read |= READ_TEXT
    caption, generated = annotation.caption, False
    if new.generate_caption and not caption:
        caption, generated = service.model.caption([image])[0].certain(), True
    described = service.model.describe(image)
    seen = Annotation(metadata={LOOKS_LIKE: dict(described.nouns)} if described.nouns else {})
    text_vector = service.model.embed_texts([caption])[0] if caption.strip() else None
    annotation = annotation.over(seen)
    metadata = {**annotation.metadata, **({NAME: new.name} if new.name else {})}
    with served.writing():
        # Another request may have added the image, and changed it, while this one embedded it.
        if (there := _item_of_image(tenant, served, content)) is not None:
            return there, False
        tenant.count_bytes(len(data) + _size(caption, new.tags, new.album, metadata))
        # The file comes first: a record never lacks its image, not even if another request deletes
        # the same item.
        with service.uploads.writing(served.name, content, data) as path:
            origin = Origin(
                etag=file_etag(path),
                captioned=generated,
                dated="" if annotation.time else "added",
                read=read,
            )
            record = Record(
                id=record_id(str(path)),
                path=str(path),
                content=content,
                caption=caption,
                width=image.width,
                height=image.height,
                time=annotation.time or int(time.time()),
                tags=annotation.tags,
                album=new.album,
                metadata=metadata,
                vector=described.vector,
                text_vector=text_vector,
                perceptual_hash=image.perceptual_hash,
                origin=origin,
            )
            added = {record.id: record}
            try:
                # Another process may have added it, and people may have edited it since.
                (record,) = served.collection.update(added, lambda stored: stored or added).values()
            except CocaError:
                service.remove_upload(record.path)
                raise
    tenant.record("add", served.name, ids=[record.id], bytes=len(data))
    return record, True


def _item_of_image(tenant: Tenant, served: ServedCollection, content: str) -> Record | None:
    """Read the item of an image, an upload if there is one; None if the collection has none."""
    collection, uploads = served.collection, tenant.service.uploads
    copies = collection.get(collection.ids(where(CONTENT, "==", content))).values()
    return min(copies, key=lambda copy: (not uploads.contains(copy.path), copy.id), default=None)


def change_items(
    tenant: Tenant,
    served: ServedCollection,
    ids: Iterable[str],
    change: ItemChange,
    *,
    if_match: str | None = None,
) -> tuple[list[Record], list[str]]:
    """Apply the same changes to several items; copies of their images follow in some of them.

    Args:
        tenant: Tenant of the request.
        served: Collection of the items.
        ids: Their ids.
        change: The changes.
        if_match: Header with the etags that the items may have; None: any.

    Returns:
        The changed records, copies last, and the ids that do not exist.
    """
    wanted, collection = list(dict.fromkeys(ids)), served.collection
    hits = {hit.id: hit for hit in collection.hits(dict.fromkeys(wanted, 0.0))}
    size = _size(change.model_dump(exclude_none=True, exclude={"ids", "collection", "videos"}))
    tenant.count_bytes(size * len(hits))

    def changed(stored: Mapping[str, Record]) -> dict[str, Record]:
        there = [id for id in wanted if id in stored]
        for id in there:
            _check_unchanged(stored[id], if_match)
        new = {id: _changed(stored[id], change) for id in there}
        for record in new.values():
            _check(record.caption, record.metadata, record.tags, record.album, record.time)
        differing = [
            record
            for id, record in new.items()
            if (record.hidden, record.tags) != (stored[id].hidden, stored[id].tags)
        ]
        return new | _changed_copies(stored, differing, new.keys())

    contents = sorted({hit.content for hit in hits.values() if hit.content})
    copies = collection.ids(where(CONTENT, "in", contents)) if contents else []
    read = dict.fromkeys([*wanted, *copies])
    written = update_embedded(collection, read, changed, tenant.service.model.embed_texts)
    tenant.record("change", served.name, ids=list(written))
    return [*written.values()], [id for id in wanted if id not in written]


def etag_of(record: Record) -> str:
    """Compute the etag of an item, of what clients can see of its record."""
    text = json.dumps(asdict(record.as_hit()), sort_keys=True, ensure_ascii=False)
    return f'"{content_id(text.encode())}"'


def _check_unchanged(record: Record, if_match: str | None) -> None:
    if if_match is None or if_match.strip() == "*":
        return
    if etag_of(record) not in (etag.strip() for etag in if_match.split(",")):
        raise ServiceError(
            f"item {record.id!r} has changed since it was read: read it again, and repeat the "
            "change",
            status=412,
            code="item_changed",
        )


def _changed(record: Record, change: ItemChange) -> Record:
    """Apply a change to a record; the vector of another caption is missing."""
    record = undone(record, change.undo) if change.undo else record
    tags = None
    if change.tags is not None or change.add_tags or change.remove_tags:
        given = [*(record.tags if change.tags is None else change.tags), *change.add_tags]
        tags = [tag for tag in given if tag not in change.remove_tags]
    record = edited(
        record,
        caption=change.caption,
        tags=tags,
        time=change.time,
        metadata=change.metadata,
    )
    return record if change.hidden is None else replace(record, hidden=change.hidden)


def _changed_copies(
    stored: Mapping[str, Record], changed: Iterable[Record], ids: AnyOf[str]
) -> dict[str, Record]:
    """Hide the other stored records of changed images as well, and mark them as favourites.

    Otherwise searches would find a copy of a hidden image. Copies that need no change are left out.
    """
    by_content = {record.content: record for record in changed if record.content}
    found = {}
    for id, copy in stored.items():
        if id in ids or copy.content not in by_content:
            continue
        record = by_content[copy.content]
        tags = [tag for tag in copy.tags if tag != FAVOURITE]
        tags += [FAVOURITE] if FAVOURITE in record.tags else []
        if record.hidden != copy.hidden or set(tags) != set(copy.tags):
            found[id] = replace(copy, hidden=record.hidden, tags=tuple(tags))
    return found


def _size(*values: Any) -> int:
    return len(json.dumps(values))


def _check(caption: str, metadata: Any, tags: Any, album: str, time: int) -> None:
    if fault := storage_error("", caption, metadata, tags=tags, album=album, time=time):
        raise ConfigError(f"the item cannot be stored: {fault}")


class _ItemId(Convertor[str]):
    """Part of a path that is an id, which may have slashes, and not another route below items."""

    regex = "(?!.*/(?:thumbnail|original|video)$).+"

    def convert(self, value: str) -> str:
        """Return the id."""
        return value

    def to_string(self, value: str) -> str:
        """Return the part of the path."""
        return value


register_url_convertor("item", _ItemId())
router = APIRouter(prefix="/v1/items", tags=["items"], route_class=KeyedRoute)
uncounted = APIRouter(route_class=UncountedRoute)
files = APIRouter(route_class=FileRoute)

Id: TypeAlias = Annotated[str, Path(min_length=1, max_length=64)]
Named: TypeAlias = Annotated[CollectionName, Query()]
Side: TypeAlias = Annotated[int, Query(ge=16, le=SIDES[-1])]

_FRESH = {"Cache-Control": "private, max-age=86400"}


@uncounted.get("/{id:path}/thumbnail", responses={200: {"content": {"image/jpeg": {}}}})
def thumbnail(
    id: Id,
    tenant: CurrentTenant,
    collection: Named = None,
    side: Side = 256,
    content: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Return a small JPEG; `side` is rounded up to 128, 256, 512, 1024 or 2048 pixels."""
    served = tenant.collection(collection)
    side = next(one for one in SIDES if one >= side)
    key, thumbnails = served.thumbnail_key(id, content), tenant.service.thumbnails
    # The cache comes first: a server reads a record slower than this reads the file.
    small = thumbnails.cached(key, side) if content else None
    if small is None or served.catalog.lacks(id, content):
        try:
            record = served.record(id)
        except ServiceError:
            # Another client deleted the item.
            thumbnails.remove(key)
            raise
        if record.content != content:
            thumbnails.remove(key)
            key = served.thumbnail_key(id, record.content)
            small = thumbnails.cached(key, side)
        small = small or thumbnails.make(key, side, tenant.service.original(record))
    return Response(small, media_type="image/jpeg", headers=_FRESH)


@files.get("/{id:path}/original", responses={200: {"content": {"image/*": {}}}})
def original(id: Id, tenant: CurrentTenant, collection: Named = None) -> Response:
    """Return the encoded image as it is stored."""
    data = tenant.service.original(tenant.collection(collection).record(id))
    return Response(data, media_type=media_type_of(data), headers=_FRESH)


@files.get("/{id:path}/video", responses={200: {"content": {"video/*": {}}}})
def video(id: Id, tenant: CurrentTenant, collection: Named = None) -> FileResponse:
    """Return the video of a frame, or a `Range` of its bytes."""
    file = tenant.service.video(tenant.collection(collection).record(id))
    return FileResponse(file, headers=_FRESH)


router.include_router(uncounted)
router.include_router(files)


@router.get("/{id:item}")
def item(id: Id, tenant: CurrentTenant, response: Response, collection: Named = None) -> Item:
    """Return an item, with its `ETag`."""
    served = tenant.collection(collection)
    return _answer(tenant, served, served.record(id), response)


def _answer(tenant: Tenant, served: ServedCollection, record: Record, response: Response) -> Item:
    response.headers["ETag"] = etag_of(record)
    return item_of(tenant, served, record)


@router.post("", status_code=201, responses={200: {"model": Item}, **WRITE_ERRORS})
def add(body: NewItem, tenant: Writer, response: Response) -> Item:
    """Add an image; status 200 and the unchanged item if the collection has it already."""
    record, new = add_item(tenant, body)
    response.status_code = 201 if new else 200
    return _answer(tenant, tenant.collection(body.collection), record, response)


@router.patch("", responses=WRITE_ERRORS)
def change_many(body: ItemChanges, tenant: Writer) -> Affected:
    """Apply the same changes to several items."""
    served, ids = tenant.collection(body.collection), body.ids
    if body.videos:
        hits = served.collection.hits(dict.fromkeys(ids, 0.0))
        ids = [*ids, *(frame.id for frame in frames_of(served.collection, hits))]
    changed, missing = change_items(tenant, served, ids, body)
    return Affected(ids=[record.id for record in changed], missing=missing)


@router.patch("/{id:item}", responses=WRITE_ERRORS | CHANGED_ERRORS)
def change(
    id: Id,
    body: ItemChange,
    tenant: Writer,
    response: Response,
    collection: Named = None,
    if_match: Annotated[str | None, Header()] = None,
) -> Item:
    """Change caption, tags, time or metadata of an item, restore what was edited, or hide it.

    With the header `If-Match`, only if the item still has this `ETag`; status 412 otherwise.
    """
    served = tenant.collection(collection)
    changed, missing = change_items(tenant, served, [id], body, if_match=if_match)
    if missing:
        raise served.missing(id)
    return _answer(tenant, served, changed[0], response)


@router.delete("/{id:item}", responses=WRITE_ERRORS)
def delete(id: Id, tenant: Writer, collection: Named = None) -> Affected:
    """Delete an item; an uploaded image is deleted as well, a file of a folder is not.

    `coca index` of that folder adds it again; `hidden` keeps it away.
    """
    served = tenant.collection(collection)
    served.record(id)
    tenant.service.delete(served, id)
    tenant.record("delete", served.name, ids=[id])
    return Affected(ids=[id], missing=[])
