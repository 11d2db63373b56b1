"""Add, change and delete items; an acknowledged write survives a killed process."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ConfigError
from coca.core.files.local_files import file_etag
from coca.search.records import Origin, Record, content_id, storage_error
from coca.server.collections.served_collection import ServedCollection
from coca.server.images.data_uris import read_data_uri
from coca.server.schemas.items import ItemChange, NewItem
from coca.server.service import Tenant


def add_item(tenant: Tenant, new: NewItem, *, id: str | None = None) -> tuple[Record, bool]:
    """Add an image to a collection; an image that is there already keeps its record.

    Args:
        tenant: Who adds it.
        new: The image and its metadata.
        id: Expected id, the hash of the bytes; None: any.

    Returns:
        The record, and whether it is new.

    Raises:
        ConfigError: The image has another id, or a field cannot be stored.
        DataError: It is no image.
        StorageError: The disk is full.
    """
    service, collection = tenant.service, tenant.collection(new.collection)
    data = read_data_uri(new.image)
    own = content_id(data)
    if id is not None and id != own:
        raise ConfigError(f"id must be the hash of the image's bytes, {own!r}, got {id!r}")
    if (there := collection.index.get([own]).get(own)) is not None:
        return there, False
    _check(new.caption, new.metadata, new.tags, new.album, new.time or 0)
    collection.check_writable()
    service.uploads.check_space()
    image = service.decoder.decode(data)
    caption, generated = new.caption, False
    if new.generate_caption and not caption:
        caption, generated = service.model.caption([image])[0].text, True
    record = Record(
        id=own,
        path="",
        caption=caption,
        width=image.width,
        height=image.height,
        time=image.time if new.time is None else new.time,
        tags=tuple(dict.fromkeys(new.tags)),
        album=new.album,
        metadata={**new.metadata, **({"name": new.name} if new.name else {})},
        vector=service.model.embed_images([image])[0],
        text_vector=_text_vector(tenant, caption),
    )
    with collection.writing():
        # Another request may have added the image, and changed it, while this one embedded it.
        if (there := collection.index.get([own]).get(own)) is not None:
            return there, False
        tenant.count_bytes(len(data) + _size(caption, new.tags, new.album, record.metadata))
        # The file comes first: a record never lacks its image, not even if another request deletes
        # the same item.
        path = service.uploads.write(collection.name, own, data)
        origin = Origin(files={str(path): file_etag(path)}, captioned=generated)
        record = replace(record, path=str(path), origin=origin)
        collection.index.upsert([record])
    tenant.record("add", collection.name, ids=[own], bytes=len(data))
    return record, True


def change_items(
    tenant: Tenant, collection: ServedCollection, ids: Iterable[str], change: ItemChange
) -> tuple[list[Record], list[str]]:
    """Apply the same changes to several items.

    Returns:
        The changed records, and the ids that do not exist.

    Raises:
        ConfigError: A field cannot be stored.
        StorageError: The disk is full.
    """
    wanted = list(dict.fromkeys(ids))
    text_vector = _text_vector(tenant, change.caption or "")
    tenant.service.uploads.check_space()
    with collection.writing():
        found = collection.index.get(wanted)
        size = _size(change.model_dump(exclude_none=True, exclude={"ids", "collection"}))
        tenant.count_bytes(size * len(found))
        changed = [
            _changed(found[id], change, text_vector=text_vector) for id in wanted if id in found
        ]
        collection.index.upsert(changed)
    tenant.record("change", collection.name, ids=[record.id for record in changed])
    return changed, [id for id in wanted if id not in found]


def delete_items(
    tenant: Tenant, collection: ServedCollection, ids: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Delete items; images that were uploaded are deleted as well, files of folders are not.

    Returns:
        The deleted ids, and the ids that do not exist.
    """
    wanted = list(dict.fromkeys(ids))
    with collection.writing():
        found = collection.index.get(wanted)
        collection.index.delete(found)
        for id, record in found.items():
            tenant.service.thumbnails.remove(collection.thumbnail_key(id))
            for path in record.origin.files:
                tenant.service.uploads.remove(path)
    tenant.record("delete", collection.name, ids=list(found))
    return [id for id in wanted if id in found], [id for id in wanted if id not in found]


def _changed(
    record: Record, change: ItemChange, *, text_vector: Float32[np.ndarray, " E"] | None
) -> Record:
    tags = [*(record.tags if change.tags is None else change.tags), *change.add_tags]
    removed = set(change.remove_tags)
    metadata = {**record.metadata, **change.metadata}
    changed = replace(
        record,
        tags=tuple(tag for tag in dict.fromkeys(tags) if tag not in removed),
        album=record.album if change.album is None else change.album,
        time=record.time if change.time is None else change.time,
        metadata={key: value for key, value in metadata.items() if value is not None},
    )
    if change.caption is not None:
        changed = replace(
            changed,
            caption=change.caption,
            text_vector=text_vector,
            origin=replace(record.origin, captioned=False),
        )
    _check(changed.caption, changed.metadata, changed.tags, changed.album, changed.time)
    return changed


def _text_vector(tenant: Tenant, caption: str) -> Float32[np.ndarray, " E"] | None:
    return tenant.service.model.embed_texts([caption])[0] if caption.strip() else None


def _size(*values: Any) -> int:
    return len(json.dumps(values))


def _check(caption: str, metadata: Any, tags: Any, album: str, time: int) -> None:
    if fault := storage_error("", caption, metadata, tags=tags, album=album, time=time):
        raise ConfigError(f"the item cannot be stored: {fault}")
