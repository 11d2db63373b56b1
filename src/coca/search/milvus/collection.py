"""A collection of images in Milvus: a folder on this machine or a server, by the same calls.

Vectors are stored with length 1 and compared by inner product, which every index type and every
kind of Milvus knows; the score is then the cosine.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from coca.core.errors import SearchError
from coca.core.progress import ProgressMaker, silent
from coca.search import records
from coca.search.index_params.advisor import choose_index
from coca.search.index_params.capabilities import Capabilities
from coca.search.index_params.params import MAX_RESULTS, VectorIndex
from coca.search.milvus import names, schema
from coca.search.milvus.ann_pages import Page
from coca.search.milvus.ann_search import nearest, nearest_of_each_album, words_of
from coca.search.milvus.catalog import make_named, missing
from coca.search.milvus.collection_config import CollectionSettings
from coca.search.milvus.collection_io import WRITE_ROWS, batches
from coca.search.milvus.connection import Connection
from coca.search.milvus.index_build import PATIENCE_S, IndexState, index_state
from coca.search.milvus.index_rebuild import change_index
from coca.search.milvus.pagination import check_group_by, check_text
from coca.search.milvus.record_store import RecordStore, Side
from coca.search.milvus.row_codec import HIT_COLUMNS, to_hit
from coca.search.milvus.schema import Layout
from coca.search.records import CollectionInfo, GroupBy, Hit, Origin, Record

__all__ = ["MAX_RESULTS", "Collection", "Side"]


class Collection:
    """A collection of images with the vectors of one model.

    Made by `Collection.open`. Threads may share it; on a folder of this machine their writes wait
    for each other. Closing it, or leaving its `with` block, lets the next process in.

    Attributes:
        info: What the collection said about itself when it was opened.
    """

    def __init__(self, connection: Connection, info: CollectionInfo, layout: Layout) -> None:
        """Wrap an open collection; use `Collection.open` instead."""
        self.info = info
        self._connection = connection
        self._store = RecordStore(connection, layout)

    @classmethod
    def open(
        cls,
        uri: str,
        collection: str = "pictures",
        *,
        token: str = "",
        embed_dim: int | None = None,
        fingerprint: str | None = None,
        model: str = "",
        create: bool = False,
        staged: bool = False,
        settings: CollectionSettings | None = None,
        timeout_s: float = 60.0,
    ) -> "Collection":
        """Open a collection, or make it.

        Args:
            uri: Path that ends in `.db`, or address of a server such as `http://host:19530`.
            collection: Name or alias within that place: letters, digits and `_`.
            token: `"user:password"` or a key, for servers that want one.
            embed_dim: Numbers in a vector; needed to make a collection, otherwise checked if given.
            fingerprint: Of the model whose vectors it holds; as `embed_dim`.
            model: Name or folder of that model, kept for whoever opens the collection later.
            create: Make the collection if it is missing.
            staged: Open the collection that is made for this name and `fingerprint`, whether or not
                the name leads there yet; `point_alias` switches the name.
            settings: How a new collection is kept; one that is there keeps its own.
            timeout_s: Limit of every call in seconds.

        Raises:
            SearchError: It is missing, cannot be reached, or holds another model's vectors.
            MissingExtraError: The Milvus packages are not installed.
        """
        schema.check_name(collection)
        connection = Connection(uri, token=token, timeout_s=timeout_s, create=create)
        try:
            with connection.write_lock:
                own = (
                    names.resolve_staged(connection, collection, fingerprint or "")
                    if staged
                    else names.resolve(connection, collection)
                )
                if own is None:
                    if not create:
                        raise SearchError(missing(connection, collection))
                    if embed_dim is None or not fingerprint:
                        raise SearchError(
                            f"to make collection {collection!r} in {uri}, "
                            "name embed_dim and fingerprint of the model that will fill it"
                        )
                    own = make_named(
                        connection,
                        collection,
                        embed_dim=embed_dim,
                        fingerprint=fingerprint,
                        model=model,
                        settings=settings or CollectionSettings(),
                        staged=staged,
                    )
                info, layout = schema.describe_collection(connection, own)
                info = replace(info, collection=collection)
                records.check_same_model(
                    info,
                    fingerprint=fingerprint or info.fingerprint,
                    embed_dim=embed_dim or info.embed_dim,
                )
                schema.load_collection(connection, layout)
                # What Milvus says counts: other programs may change an index, too.
                if state := index_state(connection, layout.name, records.VECTOR):
                    layout = replace(layout, index=state.index)
                index = cls(connection, info, layout)
                index.info = index.describe()
        except BaseException:
            connection.close()
            raise
        return index

    def __enter__(self) -> "Collection":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def own_name(self) -> str:
        """The name that leads to this collection for ever; others may be switched."""
        return self._store.layout.name

    def is_same(self, other: "Collection") -> bool:
        """Whether both are one collection, under whatever names and addresses."""
        one, another = self._store.layout, other._store.layout
        return one.name == another.name and (
            self._connection.place == other._connection.place
            # Of one server under two addresses, the collection has one id and time of creation.
            or (one.identity != (0, 0) and one.identity == another.identity)
        )

    @property
    def made_for(self) -> str:
        """The public name that it was made for; empty if that is its own name."""
        return self._store.layout.made_for

    @property
    def capabilities(self) -> Capabilities:
        """What the Milvus at the other end can do."""
        return self._connection.capabilities

    @property
    def index_type(self) -> VectorIndex:
        """The index of its vectors."""
        return self._store.layout.index

    def change_index(
        self,
        index: VectorIndex,
        *,
        fallback: bool | None = None,
        progress: ProgressMaker = silent,
        patience_s: float = PATIENCE_S,
    ) -> VectorIndex:
        """Build another index; nobody can search meanwhile.

        Args:
            index: Its type and settings.
            fallback: Whether what comes closest may be taken where Milvus cannot build it, with a
                warning; by default on Lite only.
            progress: Makes the bar to show.
            patience_s: How long no row may be added before it is given up.

        Returns:
            The index that was built.

        Raises:
            SearchError: It cannot be built; the old index is there again.
        """
        index = choose_index(index, self.capabilities, fallback=fallback)
        self.flush()
        self._store.layout = change_index(
            self._connection,
            self._store.layout,
            index,
            rows=self.count(),
            progress=progress,
            patience_s=patience_s,
        )
        return index

    def index_states(self) -> dict[Side, IndexState]:
        """How far the index of each vector is; on Lite captions have none before the first one."""
        sides: tuple[Side, Side] = ("text", "image")
        states: dict[Side, IndexState] = {}
        for side, place in zip(sides, self._store.layout.vectors, strict=True):
            if (state := index_state(self._connection, *place)) is not None:
                states[side] = state
        return states

    def describe(self) -> CollectionInfo:
        """What the collection says about itself; `count` is as of now."""
        return replace(self.info, count=self.count())

    def upsert(self, rows: Iterable[Record]) -> int:
        """Write records; one whose id is there already is replaced.

        Written rows can be found at once and outlive a killed process; `flush` makes them fast to
        search as well.

        Returns:
            How many records were given.

        Raises:
            SearchError: A record cannot be stored; the message names it. Earlier records may
                have been written.
        """
        written = 0
        for batch in batches(rows, WRITE_ROWS):
            records.check_records(batch, self.info.embed_dim)
            # One row an id: servers keep both, or refuse the batch, if an id comes twice.
            self._store.write(list({record.id: record for record in batch}.values()))
            written += len(batch)
        return written

    def delete(self, ids: Iterable[str]) -> None:
        """Remove records; ids that are not there are ignored."""
        self._store.delete(ids)

    def flush(self) -> None:
        """Bring everything that was written into the index, where that is due."""
        self._store.flush()

    def close(self) -> None:
        """Let go of the server or folder; closing twice does nothing."""
        self._connection.close()

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """The records with these ids, as far as they are there."""
        return {record.id: record for record in self._store.get(ids)}

    def ids(self, filter: str = "") -> list[str]:
        """The ids of all records that fulfil a filter, in no order.

        Raises:
            SearchError: Milvus does not understand the filter.
        """
        return self._store.pictures.ids(filter)

    def hits(self, scores: Mapping[str, float]) -> list[Hit]:
        """The records with these ids as hits with these scores, in this order, as far as there."""
        pictures = self._store.pictures
        told = pictures.get(scores, HIT_COLUMNS, freshness=pictures.freshness)
        found = {row[records.ID]: row for row in told}
        return [to_hit(found[id], score) for id, score in scores.items() if id in found]

    @property
    def writes(self) -> int:
        """How many rows were written or removed so far: through this index, on Lite by anybody."""
        return self._store.pictures.journal.writes

    @property
    def sees_all_writes(self) -> bool:
        """Whether `writes` counts those of everybody, as on Lite, and not only this index's own."""
        return self._connection.sees_all_writes

    def changed_since(self, writes: int) -> list[str] | None:
        """The ids that these were, since `writes` was that number; None if it is too long ago."""
        return self._store.pictures.journal.since(writes)

    def count(self, filter: str = "") -> int:
        """How many records there are, or how many the filter leaves.

        Raises:
            SearchError: Milvus does not understand the filter.
        """
        return self._store.pictures.count(filter)

    def repair(self) -> set[str]:
        """Remove captions that do not belong to their images, as killed writers leave them.

        Only where captions have a collection of their own, as on Milvus 2.3; searches never show
        them. Every filling begins so that reads the whole collection.

        Returns:
            The ids of records whose caption has no vector: to be written again.
        """
        return self._store.repair()

    def origins(self, ids: Iterable[str] | None = None) -> Iterator[tuple[str, str, str, Origin]]:
        """Every record's id, path, caption and origin, in no order; write nothing meanwhile.

        Args:
            ids: Only of these, as far as they are there; by default of all.
        """
        return self._store.origins(ids)

    def read_through(self, filter: str = "") -> Iterator[list[Record]]:
        """All records that fulfil a filter, in batches and in no order; write nothing meanwhile.

        Raises:
            SearchError: Milvus does not understand the filter.
        """
        return self._store.read_through(filter)

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        *,
        filter: str = "",
        offset: int = 0,
        on: Side = "image",
        group_by: GroupBy | None = None,
        effort: float = 1.0,
        params: Mapping[str, Any] | None = None,
    ) -> list[list[Hit]]:
        """The nearest records to each vector, nearest first.

        Args:
            vectors: One query a row, each of length 1.
            k: How many results a query; fewer come back if fewer are there.
            filter: Milvus expression that a record must fulfil; `where` builds one safely.
            offset: How many of the nearest to leave out, for paging.
            on: Whether images or captions are compared with the queries. Records without a
                `text_vector` are never among the nearest captions.
            group_by: `"album"` returns only the best image of each album; images without an album
                count one by one.
            effort: How much of the index is looked at, against the usual 1: more finds more of
                what is nearest, and takes longer.
            params: Search settings by Milvus's names, such as `{"ef": 200}`, instead of those that
                the effort gives.

        Raises:
            SearchError: Vectors of the wrong kind, `k` or `offset` out of range, or a filter that
                Milvus does not understand.
        """
        page = Page(k=k, offset=offset, filter=filter, effort=effort, params=params)
        page.check(self.index_type)
        check_group_by(group_by)
        names = [f"query {row}" for row in range(len(vectors))]
        queries = records.unit_rows(vectors, self.info.embed_dim, names)
        vectors_there, captions = self._store.vectors(on), on == "text"
        if group_by:
            return [
                nearest_of_each_album(vectors_there, query, page, captions=captions)
                for query in queries
            ]
        return nearest(vectors_there, queries, page, captions=captions)

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """The records whose captions hold the words of a text, best first, ranked by BM25.

        Args:
            text: Words to look for; a caption need not hold all of them.
            k: How many results, at most.
            filter: Milvus expression that a record must fulfil; `where` builds one safely.
            offset: How many of the best to leave out, for paging.

        Returns:
            Hits whose score is BM25, above 0 and without an upper end.

        Raises:
            SearchError: Milvus cannot rank by words (`supports_full_text` tells), the text is
                empty, `k` or `offset` is out of range, or Milvus does not understand the filter.
        """
        if not self.supports_full_text:
            raise SearchError(
                f"{self.capabilities.name} cannot rank captions by their words: "
                "Milvus Lite 3.2 and servers from 2.5 can"
            )
        check_text(text)
        page = Page(k=k, offset=offset, filter=filter)
        page.check(self.index_type)
        return words_of(self._store.pictures, text, page)

    @property
    def supports_full_text(self) -> bool:
        """Whether `full_text_search` can answer."""
        return self._store.layout.words
