"""Response bodies from records and hits."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from coca.search.records import Hit as FoundHit
from coca.search.records import Record
from coca.server.collections.served_collection import ServedCollection
from coca.server.schemas.items import Item
from coca.server.schemas.search import Hit
from coca.server.service import Tenant


def item_of(tenant: Tenant, collection: ServedCollection, record: Record | FoundHit) -> Item:
    """Build the body of an item."""
    return Item(**_fields(tenant, collection, record))


def hit_of(
    tenant: Tenant, collection: ServedCollection, hit: FoundHit, *, scored: bool = True
) -> Hit:
    """Build the body of a hit.

    Args:
        tenant: Who sees the hit.
        collection: Collection of the hit.
        hit: Hit of a search.
        scored: Whether its score is one; false where items are listed without a query.
    """
    return Hit(
        **_fields(tenant, collection, hit),
        score=hit.score if scored else None,
        bm25=hit.bm25,
        fused_score=hit.fused_score,
        rank_score=hit.rank_score,
        log_likelihood=hit.log_likelihood,
        match_probability=hit.match_probability,
        is_match=hit.matches,
    )


def _fields(
    tenant: Tenant, collection: ServedCollection, record: Record | FoundHit
) -> dict[str, Any]:
    url = f"/v1/items/{quote(record.id, safe='')}"
    query = f"?collection={quote(collection.name)}"
    return {
        "id": record.id,
        "name": record.path.rstrip("/").rpartition("/")[2],
        "path": record.path if tenant.service.settings.show_paths else None,
        "uploaded": tenant.service.uploads.contains(record.path),
        "caption": record.caption,
        "captions": _captions(record.caption, record.metadata),
        "caption_source": record.caption_source,
        "tags": list(record.tags),
        "album": record.album,
        "width": record.width,
        "height": record.height,
        "time": record.time or None,
        "taken_at": _iso(record.time),
        "metadata": dict(record.metadata),
        "thumbnail": f"{url}/thumbnail{query}",
        "original": f"{url}/original{query}",
    }


def _captions(caption: str, metadata: Mapping[str, Any]) -> list[str]:
    """List all captions: several given ones are in the metadata."""
    given = metadata.get("captions")
    several = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
    return list(dict.fromkeys([*([caption] if caption else []), *several]))


def _iso(time: int) -> str | None:
    if not time:
        return None
    try:
        return datetime.fromtimestamp(time, UTC).isoformat()
    except (OverflowError, OSError, ValueError):
        return None
