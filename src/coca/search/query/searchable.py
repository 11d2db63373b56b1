"""Protocol of a searchable collection, on Milvus or in memory."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from coca.search.milvus.collection import Collection
from coca.search.records import CollectionInfo, Hit, Record


@runtime_checkable
class Searchable(Protocol):
    """Searchable collection: a `Collection`, or a `CollectionCopy` of it in memory."""

    @property
    def info(self) -> CollectionInfo:
        """Description of the collection."""
        ...

    def in_milvus(self) -> Collection:
        """Return the collection in Milvus, which a saved copy opens when it is first needed."""
        ...

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        **options: Any,
    ) -> list[list[Hit]]:
        """Find the nearest records to each vector, nearest first; see `Collection.search`."""
        ...

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        ...

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of all records that match a filter, in no order."""
        ...
