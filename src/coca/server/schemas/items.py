"""Bodies of `/v1/items`: read, add, change and delete items."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from coca.server.schemas.shared import (
    MAX_LIMIT,
    Body,
    CollectionName,
    DataUri,
    ItemId,
)


class Item(Body):
    """An item of a collection."""

    id: str
    name: str
    """Last part of the path."""
    path: str | None = None
    """Path of the file on the machine of the service; null without `coca serve --show-paths`."""
    uploaded: bool
    """Whether the service stores the file, and deletes it with the item."""
    caption: str
    captions: list[str]
    """All captions; the first one is `caption`."""
    caption_source: Literal["given", "model", ""]
    tags: list[str]
    album: str
    width: int
    """In pixels; 0 if unknown."""
    height: int
    """In pixels; 0 if unknown."""
    time: int | None
    """Time of capture, in seconds since 1970; null if unknown."""
    taken_at: str | None
    """Time of capture in ISO 8601; null if unknown."""
    metadata: dict[str, Any]
    thumbnail: str
    """URL of a small JPEG."""
    original: str
    """URL of the encoded image as it is stored."""


class NewItem(Body):
    """An image to add; its id is the hash of its bytes, so that adding it twice is no error."""

    max_bytes: ClassVar[int | None] = None

    image: DataUri
    collection: CollectionName = None
    name: Annotated[str, Field(max_length=255)] = ""
    caption: Annotated[str, Field(max_length=65_535)] = ""
    tags: Annotated[list[str], Field(max_length=256)] = []
    album: Annotated[str, Field(max_length=4_096)] = ""
    time: int | None = None
    metadata: dict[str, Any] = {}
    generate_caption: bool = False
    """Generate a caption if none is given."""


class ItemChange(Body):
    """Changes of an item; absent fields stay as they are."""

    caption: Annotated[str, Field(max_length=65_535)] | None = None
    tags: Annotated[list[str], Field(max_length=256)] | None = None
    add_tags: Annotated[list[str], Field(max_length=256)] = []
    remove_tags: Annotated[list[str], Field(max_length=256)] = []
    album: Annotated[str, Field(max_length=4_096)] | None = None
    time: int | None = None
    metadata: dict[str, Any] = {}
    """Keys to set, as a JSON merge patch: null removes a key."""


class ItemIds(Body):
    """Several items of one collection."""

    ids: Annotated[list[ItemId], Field(min_length=1, max_length=MAX_LIMIT)]
    collection: CollectionName = None


class ItemChanges(ItemChange, ItemIds):
    """The same changes for several items."""


class Affected(Body):
    """Ids of the items that were written or deleted; missing ids are listed."""

    ids: list[str]
    missing: list[str]
