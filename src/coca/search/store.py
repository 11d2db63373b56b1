"""Protocols of a store and of its collections: SQLite on one machine, Milvus beyond it.

A store has named collections; a collection has records, with the vectors of one model. What a
process has written is found by its next call; what another process has committed to SQLite, too.

Dimensions: Q queries, N records, E embedding.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import ArgumentError, SearchError
from coca.search.ranking import TypedQuery
from coca.search.records import TEXT_VECTOR, VECTOR, CollectionInfo, Hit, Record, check_records
from coca.search.search_options import Ranking, SearchOptions, Side

S = TypeVar("S", bound="Store")

Change: TypeAlias = Callable[[Mapping[str, Record]], Mapping[str, Record | None]]
"""Receives stored records by id, and returns the records to write by id; None deletes a record."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What was written to a collection since a version."""

    version: int
    """Version that these changes lead to."""
    ids: tuple[str, ...] | None
    """Ids of records that were written or deleted; None where only a full read can tell."""


@runtime_checkable
class Collection(Protocol):
    """Records of one collection; thread-safe. Its store closes it."""

    @property
    def info(self) -> CollectionInfo:
        """Description of the collection as it was opened."""
        ...

    def __len__(self) -> int:
        """Count all records, hidden ones included; an empty collection is true, too."""
        ...

    def describe(self) -> CollectionInfo:
        """Describe the collection, with the current `count`."""
        ...

    def upsert(self, records: Iterable[Record]) -> int:
        """Write records: insert new ids, replace existing ids; return the number of records.

        Written records survive a killed process. Each batch is written as a whole or not at all.

        Raises:
            SearchError: A record cannot be stored; the message names it.
        """
        ...

    def delete(self, ids: Iterable[str]) -> int:
        """Delete records, and return how many there were; missing ids are ignored."""
        ...

    def update(self, ids: Iterable[str], change: Change) -> dict[str, Record]:
        """Read records, change them, and write them, with no other write in between.

        Everything is written or nothing; on Milvus, a failure may leave a part. Records that are
        equal to what is stored are not written.

        Args:
            ids: Ids of the records to read; missing ids are skipped.
            change: Computes the records to write. It is called again if another client wrote these
                records meanwhile, and other writers may wait for it: it must be fast, and have no
                other effects. What it raises ends the update.

        Returns:
            The records that `change` returned, without those that it deleted.

        Raises:
            SearchError: A record cannot be stored; the message names it.

        Example:
            collection.update(ids, lambda stored: {
                id: replace(record, hidden=True) for id, record in stored.items()
            })
        """
        ...

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        ...

    def hits(self, scores: Mapping[str, float]) -> list[Hit]:
        """Build hits with these scores, in this order, without reading vectors.

        Missing ids are skipped.
        """
        ...

    def count(self, filter: str = "") -> int:
        """Count the records that a filter keeps, hidden ones included."""
        ...

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of the records that a filter keeps, sorted, hidden ones included.

        Raises:
            SearchError: The filter cannot be read.
        """
        ...

    def pages(
        self, filter: str = "", *, vectors: bool = True, size: int = 1_000
    ) -> Iterator[list[Record]]:
        """Read all records that a filter keeps, sorted by id, in pages of at most `size`.

        A record that is written meanwhile is read at most once. Without `vectors` they are empty.
        """
        ...

    def vectors(self, on: Side = "image") -> tuple[list[str], Float32[np.ndarray, "N E"]]:
        """Return the ids that are not hidden, sorted, and their vectors; 0 where there is none."""
        ...

    def nearest(self, vectors: Float[np.ndarray, "Q E"], options: SearchOptions) -> list[list[Hit]]:
        """Find the records nearest to each vector, nearest first; hidden ones are left out."""
        ...

    def words(self, text: str, limit: int, filter: str = "") -> list[tuple[str, float]]:
        """Find the records that share a word with a text: ids with BM25, best first."""
        ...

    def similar_words(self, word: str, limit: int = 64) -> list[Hit]:
        """Find records with words that begin with a word or are one typing error away from it.

        Args:
            word: The word, case-folded.
            limit: Maximum number of records for each of these words; a store without its words may
                find that many for all of them.

        Returns:
            Records that are not hidden, with a score of 0. Some may lack such a word.
        """
        ...

    def ranked(self, query: TypedQuery, ranking: Ranking, options: SearchOptions) -> list[Hit]:
        """Search by image, caption and words; see `coca.search.ranking`.

        Returns:
            Hits, best first by `fused_score`; `score` is the cosine of query and image.
        """
        ...

    def labels_in(self, text: str) -> Set[str]:
        """Return the people, places, albums and years that a text names and a record has.

        They are terms, see `label_keys` of `coca.search.words`.
        """
        ...

    def saved_searches(self) -> dict[str, str]:
        """Read the saved searches by name, as `coca.search.mining.saved_searches` writes them."""
        ...

    def save_search(self, name: str, search: str) -> None:
        """Store a saved search under a name; an empty one removes it."""
        ...

    def changes(self, since: int = -1) -> Changes:
        """Return the current version, and what was written since another version."""
        ...

    def flush(self) -> None:
        """Wait until everything written is searchable as fast as it will be."""
        ...


@runtime_checkable
class Store(Protocol):
    """A database with collections; leaving its `with` block closes it.

    Attributes:
        uri: Address as it was given.
        product: Name and version of the database.
    """

    uri: str
    product: str

    def list(self) -> Sequence[CollectionInfo]:
        """Describe all collections, sorted by name."""
        ...

    def create(
        self,
        collection: str,
        *,
        embed_dim: int,
        fingerprint: str,
        model: str = "",
        settings: Any = None,
    ) -> Collection:
        """Create an empty collection, and open it.

        Args:
            collection: Name: letters, digits and `_`.
            embed_dim: Size of its vectors.
            fingerprint: Fingerprint of the model of its vectors.
            model: Name or folder of that model.
            settings: `CollectionSettings` of Milvus; SQLite has none.

        Raises:
            SearchError: There is a collection of that name.
        """
        ...

    def open(self, collection: str | None = None) -> Collection:
        """Open a collection.

        Args:
            collection: Its name; default: see `default_collection`.

        Raises:
            SearchError: There is no such collection, or no default; the message lists those that
                there are.
        """
        ...

    def has(self, collection: str) -> bool:
        """Return whether there is a collection of that name."""
        ...

    def drop(self, collection: str) -> None:
        """Delete a collection with all its records."""
        ...

    def promote(
        self, staged: str, collection: str, *, is_ready: Callable[[], bool] = lambda: True
    ) -> bool:
        """Let the collection `staged` take the name `collection`, whose former records are dropped.

        Searches by the name find the former records or the new ones, never none. The saved searches
        of the name stay.

        Args:
            staged: Collection with the new records.
            collection: Name to take.
            is_ready: Called while other writers of `collection` wait; it may write to `staged`.
                If it returns False, nothing is promoted.

        Returns:
            Whether `staged` has the name.
        """
        ...

    def close(self) -> None:
        """Close the store with all its collections; closing twice does nothing."""
        ...

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.uri}>"

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def repr_of(collection: Collection) -> str:
    """Return the `repr` of a collection; the database is not asked, as it may be closed."""
    info = collection.info
    return (
        f"<{type(collection).__name__} {info.collection!r} of {info.uri}: {info.count:,} images as "
        f"it was opened, model {info.model or info.fingerprint}>"
    )


def is_name(collection: str) -> bool:
    """Return whether all stores allow this name of a collection."""
    return re.fullmatch(r"[A-Za-z_]\w{0,239}", collection, re.ASCII) is not None


def has_same_vectors(record: Record, other: Record) -> bool:
    """Return whether records have equal vectors and perceptual hashes, which `==` leaves out."""
    return record.perceptual_hash == other.perceptual_hash and all(
        np.array_equal(getattr(record, name), getattr(other, name))
        for name in (VECTOR, TEXT_VECTOR)
    )


def changed_by(
    change: Change, stored: Mapping[str, Record], embed_dim: int
) -> tuple[dict[str, Record], dict[str, Record | None]]:
    """Apply a change to stored records, and validate what must be written.

    Returns:
        All records that are not deleted, and those of them that differ from what is stored, with
        None for records to delete.
    """
    results = change(stored)
    left = {id: record for id, record in results.items() if record is not None}
    differing: dict[str, Record | None] = {
        id: record
        for id, record in left.items()
        if id not in stored or record != stored[id] or not has_same_vectors(record, stored[id])
    }
    if differing:
        check_records([left[id] for id in differing], embed_dim)
    return left, differing | dict.fromkeys(stored.keys() & results.keys() - left.keys())


def check_characters(collection: str) -> None:
    """Check that all stores allow the name of a new collection."""
    if not is_name(collection):
        raise ArgumentError(
            f"{collection!r} cannot name a collection: use at most 240 letters, digits and _, "
            "and begin with a letter or _"
        )


DEFAULT_COLLECTION = "pictures"
"""Name of the first collection of a store, unless another is given."""
CLASSES_COLLECTION = "classes"
"""Default name of the collection of class embeddings."""
_UNFINISHED = re.compile(r"(_new)?_[0-9a-f]{8}")
"""End of the name of a collection of an interrupted `reindex`, or of a killed process on Milvus."""


def default_collection(store: Store) -> str:
    """Return the collection of callers that name none: `pictures`, else the only one of images.

    Raises:
        SearchError: There are several others.
    """
    if store.has(DEFAULT_COLLECTION):
        return DEFAULT_COLLECTION
    listed = {info.collection for info in store.list()} - {CLASSES_COLLECTION}
    names = sorted(
        name
        for name in listed
        if not any(_UNFINISHED.fullmatch(name.removeprefix(other)) for other in listed)
    )
    if len(names) > 1:
        raise SearchError(
            f"{store.uri} has the collections {', '.join(names)}, and none of them is "
            f"{DEFAULT_COLLECTION!r}: specify one (--collection)"
        )
    return names[0] if names else DEFAULT_COLLECTION


def missing_collection(uri: str, collection: str, names: Sequence[str]) -> SearchError:
    """Build the error of a missing collection, with the names of those that there are."""
    return SearchError(
        f"there is no collection {collection!r} in {uri} (it has {', '.join(names) or 'none'}): "
        f"`coca index FOLDER --uri {uri} --collection {collection}` makes it"
    )
