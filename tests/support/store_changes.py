"""Changes of fields of stored records, by id."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coca.search.store import Collection


def patch(collection: Collection, changes: Mapping[str, Mapping[str, Any]]) -> int:
    """Change fields of records; return how many there are."""
    return len(
        collection.update(
            changes,
            lambda stored: {id: replace(one, **changes[id]) for id, one in stored.items()},
        )
    )
